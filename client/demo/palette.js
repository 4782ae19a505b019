/**
 * A member's colour and initials, the same in every window because they come from the user's id.
 */

/** Dark enough for white text upon them, 4.5 to 1. */
const SOLID = ['#b3261e', '#8a4b00', '#4d6100', '#1b6e3c', '#00696f', '#0b5cad', '#4a4fc4', '#7b3fb5', '#a3307b', '#5d5d66'];
/** The same hues as lines on a dark board. */
const BRIGHT = ['#ff8a80', '#f5b25c', '#c3d84a', '#6fd99a', '#5fd6dd', '#7db8ff', '#a9acff', '#cf9fff', '#ff9ad5', '#c3c6d0'];

/** @param {string} user */
export function colourOf(user) {
  let hash = 2_166_136_261;
  for (const character of user) hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 16_777_619);
  return (hash >>> 0) % SOLID.length;
}

/** @param {number} colour @param {boolean} dark */
export function inkOf(colour, dark) {
  return (dark ? BRIGHT : SOLID)[colour] ?? SOLID[0];
}

/** Sets the colours that style.css uses, under white text and on the page. @param {HTMLElement} element @param {string} user */
export function paint(element, user) {
  const colour = colourOf(user);
  element.style.setProperty('--member', SOLID[colour]);
  element.style.setProperty('--member-bright', BRIGHT[colour]);
}

/** @param {string} name */
export function initialsOf(name) {
  const words = name.trim().split(/\s+/u).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words[words.length - 1]].map((word) => [...word][0]) : [...(words[0] ?? '?')].slice(0, 2);
  return letters.join('').toUpperCase();
}
