//! What a scenario lets happen while a run lasts: events, attacks, a restart of the server.

use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::{Aside, Progress, Run, TOKENS_AT_ONCE, agenda::Step};
use crate::{
    attack,
    driver::Order,
    figures::{AttackFigures, EventSummary},
    scenario::{AttackKind, Restart},
};

/// Attackers with a token of their own.
const ATTACKERS: u32 = 64;

impl<F: FnMut(Progress)> Run<F> {
    pub(super) fn event(&mut self, at: Duration, place: usize) {
        let event = self.setup.scenario.events[place].clone();
        let (group, what, order) = if let Some(restart) = event.restart {
            let what = format!("server ended by {} and started again", restart.signal);
            self.note(at, what);
            self.restart(restart);
            return;
        } else if let Some(handover) = &event.network {
            let spec = self.networks.get(&handover.to).cloned().unwrap_or_default();
            (&handover.group, format!("handover to {}", handover.to), Order::Network(spec))
        } else if let Some(address) = &event.address {
            (&address.group, "another address".to_owned(), Order::Address)
        } else if let Some(outage) = &event.outage {
            (&outage.group, format!("outage for {:?}", outage.length.0), Order::Outage(outage.length.0))
        } else {
            return;
        };
        let whom = group.as_deref().unwrap_or("everybody");
        self.note(at, format!("{whom}: {what}"));
        let groups = &self.setup.scenario.groups;
        let is_meant = |of: usize| group.as_ref().is_none_or(|name| groups[of].name == *name);
        let met: Vec<u32> =
            self.present.iter().filter(|(_, user)| is_meant(user.group)).map(|(number, _)| *number).collect();
        let over = event.over.0;
        for (place, number) in met.iter().enumerate() {
            let after = over.mul_f64(place as f64 / met.len() as f64);
            self.agenda.enter(at + after, Step::Order(*number, order.clone()));
        }
    }

    pub(super) fn note(&mut self, at: Duration, what: String) {
        (self.shown)(Progress::Note(format!("{:.0} s: {what}", at.as_secs_f64())));
        self.events.push(EventSummary { at_s: at.as_secs_f64(), what });
    }

    pub(super) fn attack(&mut self, at: Duration, place: usize) -> String {
        let attack = self.setup.scenario.attacks[place].clone();
        let what = format!("attack: {}", attack.kind.name());
        let (target, tokens) = (self.setup.target.clone(), self.setup.tokens.clone());
        let (room, seed) = (format!("{}-attack-{place}", self.setup.prefix), self.setup.seed);
        let stop = self.end_attacks.subscribe();
        self.attacks.spawn(async move {
            let asked = (0..attack.connections.min(ATTACKERS)).map(|number| {
                let (tokens, target, room) = (&tokens, &target, &room);
                async move { tokens.token(target, room, &format!("attacker-{number}")).await }
            });
            let asked = stream::iter(asked).buffered(TOKENS_AT_ONCE);
            // An attacker without a token says another's.
            let tokens: Vec<String> = asked.filter_map(|token| async { token.ok() }).collect().await;
            let udp = match (attack.kind, tokens.first()) {
                (AttackKind::Garbage, Some(token)) => attack::find_udp(&target, &room, token).await,
                _ => None,
            };
            let ground = attack::Ground { target, udp, room, tokens, seed };
            let figures = attack::run(&attack, &ground, stop).await;
            AttackFigures { at_s: at.as_secs_f64(), ..figures }
        });
        what
    }

    fn restart(&mut self, restart: Restart) {
        let Some(mut server) = self.setup.own_server.take() else {
            // The one before has not come to its end.
            *self.errors.entry("harness: a restart while the server was away".to_owned()).or_default() += 1;
            return;
        };
        let aside = self.aside.clone();
        tokio::spawn(async move {
            let result = server.restart(restart).await;
            // The run may be over; then the server goes with this task.
            let _ = aside.send(Aside::Restarted(Box::new(server), result));
        });
    }
}
