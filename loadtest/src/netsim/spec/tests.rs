//! The YAML form: what it means, and what it refuses.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn spec(yaml: &str) -> NetworkSpec {
    NetworkSpec::from_yaml(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"))
}

#[test]
fn both_directions_are_described_at_once_and_each_may_differ() {
    let spec = spec("both: {delay: 40ms, loss: 2%}\nup: {rate: 5Mbit/s, queue: 100ms}\ndown: {loss: 0.01}");
    let rate = RateLimit { bits_per_second: 5_000_000, burst_bytes: 3_000, queue_bytes: 62_500, codel: None };
    let both = LinkConfig { delay: 40 * MS, ..LinkConfig::default() };
    assert_eq!(spec.up, LinkConfig { loss: Loss::Random(0.02), rate: Some(rate), ..both.clone() });
    assert_eq!(spec.down, LinkConfig { loss: Loss::Random(0.01), ..both });
}

#[test]
fn every_form_of_a_field_is_understood() {
    let up = |fields: &str| spec(&format!("up: {{{fields}}}")).up;
    assert_eq!(up("jitter: 1.5s").jitter, Jitter::Uniform(1_500 * MS));
    assert_eq!(up("jitter: {pareto: {mean: 5ms}}").jitter, Jitter::Pareto { mean: 5 * MS });
    let normal = Jitter::Normal { mean: 20 * MS, deviation: Duration::from_micros(500) };
    assert_eq!(up("jitter: {normal: {mean: 20ms, deviation: 500us}}").jitter, normal);
    let bursty = Loss::Bursty(GilbertElliott::from_mean(0.02, 8.0));
    assert_eq!(up("loss: {mean: 2%, burst: 8}").loss, bursty);
    let model = GilbertElliott { good_to_bad: 0.01, bad_to_good: 0.3, loss_in_good: 0.0, loss_in_bad: 0.8 };
    let fields = "loss: {good_to_bad: 1%, bad_to_good: 30%, loss_in_good: 0, loss_in_bad: 80%}";
    assert_eq!(up(fields).loss, Loss::Bursty(model));
    assert_eq!(
        (up("duplicate: 1%").duplicate, up("mtu: 1400").mtu, up("reorder: true").reorder),
        (0.01, Some(1400), true)
    );

    let rate = |fields: &str| up(&format!("rate: 8Mbit/s, {fields}")).rate.unwrap();
    assert_eq!(rate("queue: {bytes: 64KiB}").queue_bytes, 65_536);
    assert_eq!(rate("burst: 10kB").burst_bytes, 10_000);
    assert_eq!(
        (rate("queue: {codel: {}}").codel, rate("queue: {codel: {}}").queue_bytes),
        (Some(CoDel::default()), 1_000_000)
    );
    let codel = rate("queue: {codel: {target: 10ms, interval: 200ms, limit: 500ms}}");
    assert_eq!(codel.codel, Some(CoDel { target: 10 * MS, interval: 200 * MS }));
    assert_eq!(codel.queue_bytes, 500_000);
}

#[test]
fn nats_have_common_names_and_those_of_rfc_4787() {
    use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    let nat =
        |text: &str| spec(&format!("nat: {text}")).nat.map(|nat| (nat.mapping, nat.filtering, nat.timeout));
    let usual = 30_000 * MS;
    assert_eq!(nat("none"), None);
    assert_eq!(nat("full-cone"), Some((EndpointIndependent, EndpointIndependent, usual)));
    assert_eq!(nat("address-restricted"), Some((EndpointIndependent, AddressDependent, usual)));
    assert_eq!(nat("port-restricted"), Some((EndpointIndependent, AddressAndPortDependent, usual)));
    assert_eq!(nat("symmetric"), Some((AddressAndPortDependent, AddressAndPortDependent, usual)));
    let form = "{mapping: address-dependent, filtering: endpoint-independent, timeout: 2min}";
    assert_eq!(nat(form), Some((AddressDependent, EndpointIndependent, 120_000 * MS)));
}

#[test]
fn a_base_is_changed_by_what_is_said_and_its_queue_keeps_its_time() {
    let lte = spec("lte");
    let slower = spec("base: lte\nboth: {rate: 6Mbit/s}\nfirewall: udp-blocked");
    let (before, after) = (lte.up.rate.unwrap(), slower.up.rate.unwrap());
    assert_eq!(before.queue_bytes, 2 * after.queue_bytes);
    assert_eq!(LinkConfig { rate: lte.up.rate, ..slower.up }, lte.up);
    assert_eq!((slower.nat, slower.firewall), (lte.nat, Firewall::UdpBlocked));
}

#[test]
fn events_happen_once_or_again_and_again() {
    let spec = spec(
        "events:\n  - {at: 10s, every: 30s, outage: 5s}\n  - {at: 20s, change_address: true}\n  - {at: 1s, rebind: true}\n  \
         - {at: 30s, switch_to: lte}",
    );
    let event = |at: u32, every, what| ScheduledEvent { at: at * 1_000 * MS, every, what };
    let lte = Happening::Switch(Box::new(presets::preset("lte").unwrap()));
    let expected = [
        event(10, Some(30_000 * MS), Happening::Outage(5_000 * MS)),
        event(20, None, Happening::AddressChange),
        event(1, None, Happening::Rebind),
        event(30, None, lte),
    ];
    assert_eq!(spec.events, expected);
}

/// Each mistake, and what the message must name.
#[test]
fn a_mistake_is_refused_with_the_field_and_what_is_allowed() {
    let mistakes = [
        ("both: {delay: 40}", &["delay", "40ms"][..]),
        ("both: {delay: 40 parsecs}", &["delay", "ms"]),
        ("both: {delay: -5ms}", &["delay", "ms"]),
        ("both: {delay: 2min5s}", &["delay", "ms"]),
        ("both: {jitter: [1]}", &["jitter", "pareto"]),
        ("both: {jitter: {normal: {mean: 5ms}}}", &["jitter", "deviation"]),
        ("both: {loss: 2}", &["loss", "2%"]),
        ("both: {loss: 120%}", &["loss", "2%"]),
        ("both: {loss: {mean: 2%}}", &["loss", "burst"]),
        ("both: {loss: {mean: 90%, burst: 2}}", &["loss", "burst", "allowed"]),
        ("both: {duplicate: nan}", &["duplicate"]),
        ("both: {rate: 5}", &["rate", "5Mbit/s"]),
        ("both: {rate: 5MB/s}", &["rate", "5Mbit/s"]),
        ("both: {rate: 0bit/s}", &["rate", "1kbit/s"]),
        ("both: {queue: 200ms}", &["queue", "rate"]),
        ("both: {rate: 1Mbit/s, queue: {bytes: 10B}}", &["queue", "1500"]),
        ("both: {rate: 1Mbit/s, queue: {codel: {target: 1s}}}", &["codel", "target"]),
        ("both: {rate: 1Mbit/s, queue: {codel: {targte: 1s}}}", &["queue", "target"]),
        ("both: {mtu: 500}", &["mtu", "1280"]),
        ("both: {dleay: 40ms}", &["dleay", "delay"]),
        ("deley: 40ms", &["deley", "both"]),
        ("nat: cone", &["nat", "full-cone"]),
        ("firewall: shut", &["shut", "only-443"]),
        ("base: 5g", &["base", "5g", "lte"]),
        ("events: [{at: 5s}]", &["events[0]", "outage"]),
        ("events: [{at: 5s, outage: 1s, rebind: true}]", &["events[0]", "one of"]),
        ("events: [{outage: 1s}]", &["at"]),
        ("events: [{at: 5s, every: 0ms, rebind: true}]", &["events[0]", "every"]),
        ("events: [{at: 5s, switch_to: 5g}]", &["events[0]", "switch_to", "lte"]),
        ("7", &["network"]),
    ];
    for (yaml, names) in mistakes {
        let message = NetworkSpec::from_yaml(yaml).expect_err(yaml).to_string();
        for name in names {
            assert!(message.contains(name), "{yaml} gives, without {name}:\n{message}");
        }
    }
}
