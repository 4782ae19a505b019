//! What a network is like: one value that says everything about a browser's access, and its form in YAML.
//!
//! `docs/networks.md` describes the form for its users.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::{
    Behaviour, CoDel, Firewall, GilbertElliott, Jitter, LinkConfig, Loss, NatConfig, RateLimit, presets,
};
use crate::units::{Rate, Share, Size, Time};

/// A browser's network. The default is perfect: no delay, no loss, no NAT, no firewall.
///
/// It is read from the name of a [preset](presets()), or from a map in the form that `docs/networks.md` describes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkSpec {
    /// What it is, in a line.
    pub about: String,
    /// From the browser.
    pub up: LinkConfig,
    /// To the browser.
    pub down: LinkConfig,
    /// The NAT, if there is one.
    pub nat: Option<NatConfig>,
    /// What is let out.
    pub firewall: Firewall,
    /// What happens to it, after the start of the browser that has it.
    pub events: Vec<ScheduledEvent>,
}

/// Something that happens once or again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduledEvent {
    /// When it first happens.
    pub at: Duration,
    /// After how long it happens again, if it does. Not zero.
    pub every: Option<Duration>,
    /// What happens.
    pub what: Happening,
}

/// What can happen to a network.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// Nothing passes for so long.
    Outage(Duration),
    /// The browser gets another address.
    AddressChange,
    /// The NAT forgets its mappings.
    Rebind,
    /// The browser is in another network from now on. Only its links, NAT and firewall count, not its events.
    Switch(Box<NetworkSpec>),
}

/// Why a network cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The text is no network. The message names place and field, and what is allowed.
    #[error("{0}")]
    Form(#[from] serde_saphyr::Error),
    /// There is neither a preset nor a file of this name.
    #[error(
        "there is no network {name:?}: it is not a file that can be read ({source}), and not one of {known}"
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// The presets.
        known: String,
        /// Why it could not be read as a file.
        source: std::io::Error,
    },
}

impl NetworkSpec {
    /// Reads the YAML form.
    pub fn from_yaml(yaml: &str) -> Result<Self, SpecError> {
        Ok(serde_saphyr::from_str(yaml)?)
    }
}

impl<'de> Deserialize<'de> for NetworkSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NameOrForm::deserialize(deserializer)? {
            NameOrForm::Name(name) => by_name("network", &name),
            NameOrForm::Form(form) => form.build(),
        }
        .map_err(de::Error::custom)
    }
}

enum NameOrForm {
    Name(String),
    Form(Box<Form>),
}

impl<'de> Deserialize<'de> for NameOrForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = NameOrForm;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("the name of a network, or a map that describes one")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<NameOrForm, E> {
                Ok(NameOrForm::Name(name.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<NameOrForm, A::Error> {
                Form::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(|form| NameOrForm::Form(Box::new(form)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The YAML form of a network.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Form {
    about: Option<String>,
    base: Option<String>,
    both: LinkForm,
    up: LinkForm,
    down: LinkForm,
    nat: Option<NatForm>,
    firewall: Option<FirewallName>,
    events: Vec<EventForm>,
}

/// One direction, or both; what is not said is as in the base.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LinkForm {
    delay: Option<Time>,
    jitter: Option<JitterForm>,
    reorder: Option<bool>,
    loss: Option<LossForm>,
    duplicate: Option<Share>,
    rate: Option<Rate>,
    burst: Option<Size>,
    queue: Option<QueueForm>,
    mtu: Option<Size>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "`jitter` is a time such as 20ms (even), {normal: {mean: 20ms, deviation: 5ms}} or \
                 {pareto: {mean: 5ms}}"
)]
enum JitterForm {
    Even(Time),
    Normal { normal: NormalForm },
    Pareto { pareto: ParetoForm },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NormalForm {
    mean: Time,
    deviation: Time,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParetoForm {
    mean: Time,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "`loss` is a share such as 2%, {mean: 2%, burst: 8}, or \
                 {good_to_bad: 1%, bad_to_good: 30%, loss_in_good: 0%, loss_in_bad: 80%}"
)]
enum LossForm {
    Random(Share),
    Mean { mean: Share, burst: f64 },
    Model { good_to_bad: Share, bad_to_good: Share, loss_in_good: Share, loss_in_bad: Share },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "`queue` is a time such as 200ms, {bytes: 64kB}, or \
                 {codel: {target: 5ms, interval: 100ms, limit: 1s}}, where any of the three may be left out"
)]
enum QueueForm {
    Time(Time),
    Bytes { bytes: Size },
    Managed { codel: CoDelForm },
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CoDelForm {
    target: Option<Time>,
    interval: Option<Time>,
    limit: Option<Time>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "`nat` is none, full-cone, address-restricted, port-restricted or symmetric, or \
                 {mapping: …, filtering: …, timeout: 30s} with endpoint-independent, address-dependent or \
                 address-and-port-dependent"
)]
enum NatForm {
    Named(NatName),
    Rfc4787 { mapping: BehaviourName, filtering: BehaviourName, timeout: Option<Time> },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum NatName {
    None,
    FullCone,
    AddressRestricted,
    PortRestricted,
    Symmetric,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BehaviourName {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FirewallName {
    Open,
    UdpBlocked,
    #[serde(rename = "only-443")]
    Only443,
    OnlyServer,
    OnlyServerSilent,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventForm {
    at: Time,
    every: Option<Time>,
    outage: Option<Time>,
    #[serde(default)]
    change_address: bool,
    #[serde(default)]
    rebind: bool,
    switch_to: Option<String>,
}

/// RFC 4787 section 4.3 asks for 2 min at least; many home routers and firewalls have this.
const NAT_TIMEOUT: Duration = Duration::from_secs(30);
/// What may pass at once if nothing else is said: two packets.
const BURST_BYTES: usize = 3_000;
/// What a queue holds if nothing else is said.
const QUEUE: Duration = Duration::from_millis(200);
/// What a queue under CoDel holds if nothing else is said.
const CODEL_LIMIT: Duration = Duration::from_secs(1);
/// However slow the link, a few packets may wait.
const LEAST_QUEUE_BYTES: usize = 8 * 1_500;
/// The least MTU of IPv6.
const LEAST_MTU: usize = 1_280;
const LEAST_REPETITION: Duration = Duration::from_millis(1);

impl Form {
    fn build(self) -> Result<NetworkSpec, String> {
        let mut spec = match &self.base {
            Some(name) => by_name("base", name)?,
            None => NetworkSpec::default(),
        };
        spec.about = self.about.unwrap_or(spec.about);
        self.up.over(&self.both).apply(&mut spec.up).map_err(|problem| format!("up (or both): {problem}"))?;
        self.down
            .over(&self.both)
            .apply(&mut spec.down)
            .map_err(|problem| format!("down (or both): {problem}"))?;
        if let Some(nat) = self.nat {
            spec.nat = nat.build();
        }
        if let Some(firewall) = self.firewall {
            spec.firewall = firewall.into();
        }
        for (number, event) in self.events.into_iter().enumerate() {
            spec.events.push(event.build().map_err(|problem| format!("events[{number}]: {problem}"))?);
        }
        Ok(spec)
    }
}

fn by_name(field: &str, name: &str) -> Result<NetworkSpec, String> {
    presets::preset(name).ok_or_else(|| {
        format!("{field}: there is no network {name:?}; there are {}", presets::names().join(", "))
    })
}

impl LinkForm {
    /// What is said here, and else what is said in `other`.
    fn over(self, other: &Self) -> Self {
        Self {
            delay: self.delay.or(other.delay),
            jitter: self.jitter.or(other.jitter),
            reorder: self.reorder.or(other.reorder),
            loss: self.loss.or(other.loss),
            duplicate: self.duplicate.or(other.duplicate),
            rate: self.rate.or(other.rate),
            burst: self.burst.or(other.burst),
            queue: self.queue.or(other.queue),
            mtu: self.mtu.or(other.mtu),
        }
    }

    fn apply(self, link: &mut LinkConfig) -> Result<(), String> {
        if let Some(Time(delay)) = self.delay {
            link.delay = delay;
        }
        if let Some(jitter) = self.jitter {
            link.jitter = jitter.into();
        }
        if let Some(reorder) = self.reorder {
            link.reorder = reorder;
        }
        if let Some(loss) = self.loss {
            link.loss = loss.build()?;
        }
        if let Some(Share(duplicate)) = self.duplicate {
            link.duplicate = duplicate;
        }
        if let Some(Size(mtu)) = self.mtu {
            if mtu < LEAST_MTU {
                return Err(format!("`mtu` is {mtu}; allowed is {LEAST_MTU} or more"));
            }
            link.mtu = Some(mtu);
        }
        link.rate = self.limit(link.rate)?;
        Ok(())
    }

    /// The bottleneck, given that of the base.
    fn limit(&self, base: Option<RateLimit>) -> Result<Option<RateLimit>, String> {
        let Some(bits_per_second) =
            self.rate.map(|Rate(rate)| rate).or(base.map(|limit| limit.bits_per_second))
        else {
            let of_a_rate = [("burst", self.burst.is_some()), ("queue", self.queue.is_some())];
            return match of_a_rate.iter().find(|(_, is_given)| *is_given) {
                Some((field, _)) => Err(format!("`{field}` means nothing without `rate`")),
                None => Ok(None),
            };
        };
        let holding = |time| RateLimit::bytes_in(bits_per_second, time).max(LEAST_QUEUE_BYTES);
        let (queue_bytes, codel) = match (self.queue, base) {
            (Some(queue), _) => queue.build(holding)?,
            // The base's queue, as a time.
            (None, Some(base)) => (holding(base.time_for(base.queue_bytes)), base.codel),
            (None, None) => (holding(QUEUE), None),
        };
        let burst_bytes = self.burst.map(|Size(burst)| burst).or(base.map(|limit| limit.burst_bytes));
        let burst_bytes = burst_bytes.unwrap_or(BURST_BYTES);
        Ok(Some(RateLimit { bits_per_second, burst_bytes, queue_bytes, codel }))
    }
}

impl From<JitterForm> for Jitter {
    fn from(form: JitterForm) -> Self {
        match form {
            JitterForm::Even(Time(most)) => Self::Uniform(most),
            JitterForm::Normal { normal } => {
                Self::Normal { mean: normal.mean.0, deviation: normal.deviation.0 }
            }
            JitterForm::Pareto { pareto } => Self::Pareto { mean: pareto.mean.0 },
        }
    }
}

impl LossForm {
    fn build(self) -> Result<Loss, String> {
        match self {
            Self::Random(Share(share)) => Ok(Loss::Random(share)),
            Self::Mean { mean: Share(mean), burst } => {
                // Runs of so many need as many packets between them that the share can be had.
                let least = mean / (1.0 - mean);
                if mean >= 1.0 || !(1.0..=1e6).contains(&burst) || burst < least {
                    return Err(format!(
                        "`loss` has a mean of {mean} and bursts of {burst}; allowed is a mean below 1, and a burst \
                         of 1 packet or more, at least mean / (1 - mean)"
                    ));
                }
                Ok(Loss::Bursty(GilbertElliott::from_mean(mean, burst)))
            }
            Self::Model { good_to_bad, bad_to_good, loss_in_good, loss_in_bad } => {
                Ok(Loss::Bursty(GilbertElliott {
                    good_to_bad: good_to_bad.0,
                    bad_to_good: bad_to_good.0,
                    loss_in_good: loss_in_good.0,
                    loss_in_bad: loss_in_bad.0,
                }))
            }
        }
    }
}

impl QueueForm {
    /// How many bytes it holds, given how many wait for a time, and whether CoDel manages it.
    fn build(self, holding: impl Fn(Duration) -> usize) -> Result<(usize, Option<CoDel>), String> {
        match self {
            Self::Time(Time(time)) => Ok((holding(time), None)),
            Self::Bytes { bytes: Size(bytes) } if bytes < 1_500 => {
                Err(format!("`queue` holds {bytes} bytes; allowed is a packet, 1500, or more"))
            }
            Self::Bytes { bytes: Size(bytes) } => Ok((bytes, None)),
            Self::Managed { codel } => {
                let usual = CoDel::default();
                let target = codel.target.map_or(usual.target, |Time(time)| time);
                let interval = codel.interval.map_or(usual.interval, |Time(time)| time);
                if interval <= target {
                    return Err(format!(
                        "`queue.codel`: an interval of {interval:?} is not above the target {target:?}"
                    ));
                }
                let limit = codel.limit.map_or(CODEL_LIMIT, |Time(time)| time);
                Ok((holding(limit), Some(CoDel { target, interval })))
            }
        }
    }
}

impl NatForm {
    fn build(self) -> Option<NatConfig> {
        use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        let (mapping, filtering, timeout) = match self {
            Self::Named(NatName::None) => return None,
            Self::Named(NatName::FullCone) => (EndpointIndependent, EndpointIndependent, None),
            Self::Named(NatName::AddressRestricted) => (EndpointIndependent, AddressDependent, None),
            Self::Named(NatName::PortRestricted) => (EndpointIndependent, AddressAndPortDependent, None),
            Self::Named(NatName::Symmetric) => (AddressAndPortDependent, AddressAndPortDependent, None),
            Self::Rfc4787 { mapping, filtering, timeout } => (mapping.into(), filtering.into(), timeout),
        };
        let timeout = timeout.map_or(NAT_TIMEOUT, |Time(timeout)| timeout);
        Some(NatConfig { mapping, filtering, timeout })
    }
}

impl From<BehaviourName> for Behaviour {
    fn from(name: BehaviourName) -> Self {
        match name {
            BehaviourName::EndpointIndependent => Self::EndpointIndependent,
            BehaviourName::AddressDependent => Self::AddressDependent,
            BehaviourName::AddressAndPortDependent => Self::AddressAndPortDependent,
        }
    }
}

impl From<FirewallName> for Firewall {
    fn from(name: FirewallName) -> Self {
        match name {
            FirewallName::Open => Self::Open,
            FirewallName::UdpBlocked => Self::UdpBlocked,
            FirewallName::Only443 => Self::Only443,
            FirewallName::OnlyServer => Self::OnlyServer,
            FirewallName::OnlyServerSilent => Self::OnlyServerSilent,
        }
    }
}

impl EventForm {
    fn build(self) -> Result<ScheduledEvent, String> {
        let what = match (self.outage, self.change_address, self.rebind, self.switch_to) {
            (Some(Time(length)), false, false, None) => Happening::Outage(length),
            (None, true, false, None) => Happening::AddressChange,
            (None, false, true, None) => Happening::Rebind,
            (None, false, false, Some(name)) => Happening::Switch(Box::new(by_name("switch_to", &name)?)),
            _ => {
                return Err("exactly one of `outage: 5s`, `change_address: true`, `rebind: true` and \
                            `switch_to: lte` is to be said"
                    .into());
            }
        };
        let every = self.every.map(|Time(every)| every);
        if every.is_some_and(|every| every < LEAST_REPETITION) {
            return Err(format!("`every` is {every:?}; allowed is {LEAST_REPETITION:?} or more"));
        }
        Ok(ScheduledEvent { at: self.at.0, every, what })
    }
}

#[cfg(test)]
mod tests;
