/** The list of people in the room, oneself first, and how each is reached. */

import { byId, make } from './dom.js';
import { initialsOf, paint } from './palette.js';

/** @type {Record<import('/client/room.js').Reach, string>} */
const REACHES = { direct: 'direct', relay: 'via relay', server: 'via server' };

/** @param {import('/client/room.js').Room} room @param {string} ownName */
export function showPeople(room, ownName) {
  const others = [...room.members.values()].sort((a, b) => a.name.localeCompare(b.name) || a.member - b.member);
  const { peers } = room;
  const items = others.map((member) => {
    const item = person(member.user, member.name || member.user, '', member.quality);
    const { state, rtt } = peers.get(member.member) ?? { state: /** @type {const} */ ('server'), rtt: null };
    const reach = make('span', 'reach', REACHES[state]);
    reach.dataset.reach = state;
    if (rtt !== null) reach.title = `${rtt.toFixed(rtt < 10 ? 1 : 0)} ms`;
    item.append(reach);
    return item;
  });
  const self = room.self;
  if (self) items.unshift(person(self.user, ownName, ' (you)'));
  byId('people', HTMLUListElement).replaceChildren(...items);
  byId('people-count', HTMLElement).textContent = String(items.length);
}

/** What the mark says in words. */
const WORDS = { excellent: 'very good connection', good: 'good connection', poor: 'poor connection', lost: 'connection lost' };

/**
 * @param {string} user
 * @param {string} name
 * @param {string} remark
 * @param {import('/client/room.js').MemberQuality | null} [quality]
 */
function person(user, name, remark, quality) {
  const item = make('li', '');
  const avatar = make('span', 'avatar', initialsOf(name));
  avatar.setAttribute('aria-hidden', 'true');
  paint(avatar, user);
  const label = make('span', 'name', name + remark);
  label.title = name;
  item.append(avatar, label);
  if (quality) item.append(mark(quality));
  return item;
}

/** @param {import('/client/room.js').MemberQuality} quality */
function mark({ score, rung }) {
  const bars = make('span', 'signal');
  bars.dataset.score = score;
  bars.setAttribute('role', 'img');
  const words = rung && score !== 'lost' ? `${WORDS[score]}, ${rung}` : WORDS[score];
  bars.setAttribute('aria-label', words);
  bars.title = words;
  bars.append(make('i', ''), make('i', ''), make('i', ''));
  return bars;
}
