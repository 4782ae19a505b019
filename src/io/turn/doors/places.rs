//! Places for connections on their way in: so many in all, and so many for one network, so that nobody holds all of them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustc_hash::FxHashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    most_of_network: usize,
    networks: Mutex<FxHashMap<IpAddr, usize>>,
}

/// A place among those of a network, until it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    places: &'a Places,
    network: IpAddr,
}

impl Places {
    pub(super) fn new(all: usize, most_of_network: usize) -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Semaphore::new(all)), most_of_network, networks: Mutex::default() })
    }

    /// One of all; waits until one is free.
    pub(super) async fn one(&self) -> OwnedSemaphorePermit {
        self.all.clone().acquire_owned().await.expect("it is never closed")
    }

    /// One among those of the client's network, if there is one.
    pub(super) fn of_network(&self, client: IpAddr) -> Option<Place<'_>> {
        let network = network(client);
        let mut networks = self.networks();
        let taken = networks.entry(network).or_default();
        if *taken >= self.most_of_network {
            return None;
        }
        *taken += 1;
        Some(Place { places: self, network })
    }

    fn networks(&self) -> MutexGuard<'_, FxHashMap<IpAddr, usize>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut networks = self.places.networks();
        if let Some(taken) = networks.get_mut(&self.network) {
            *taken -= 1;
            if *taken == 0 {
                networks.remove(&self.network);
            }
        }
    }
}

/// What one customer of a provider has at most: a /24 of IPv4, a /56 of IPv6.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(client) => Ipv4Addr::from(u32::from(client) & !0xff).into(),
        IpAddr::V6(client) => Ipv6Addr::from(u128::from(client) >> 72 << 72).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_has_its_places_leaves_the_others_theirs() {
        let places = Places::new(100, 2);
        let enter = |client: &str| places.of_network(client.parse().unwrap());
        let (first, _second) = (enter("192.0.2.1").unwrap(), enter("::ffff:192.0.2.255").unwrap());
        assert!(enter("192.0.2.77").is_none());
        assert!(enter("192.0.3.1").is_some());
        let v6 = [enter("2001:db8:0:aa00::1").unwrap(), enter("2001:db8:0:aaff::1").unwrap()];
        assert!(enter("2001:db8:0:aa11::1").is_none());
        assert!(enter("2001:db8:0:ab00::1").is_some());
        drop(first);
        assert!(enter("192.0.2.77").is_some());
        drop(v6);
        assert_eq!(places.networks().len(), 1);
    }
}
