//! How many connections there are from each address: one peer does not take those of all others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// Bits of an IPv6 address that tell networks apart: whoever has one has all addresses in it.
const NETWORK_BITS: u32 = 64;

/// The peers that have connections, and how many each.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    most: usize,
    /// Only of those that have some, so there are no more than connections.
    open: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// A connection of a peer, which counts until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    peer: IpAddr,
    open: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// Who is counted as one.
fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> NETWORK_BITS << NETWORK_BITS;
            Ipv6Addr::from_bits(network).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

// === impl Peers ===

impl Peers {
    /// Each may have so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, open: Arc::default() }
    }

    /// Counts another connection from this address; `None` = it is one too many.
    pub(super) fn seat(&self, address: IpAddr) -> Option<Seat> {
        let peer = peer_of(address);
        let mut open = self.open.lock();
        let count = open.get(&peer).copied().unwrap_or_default();
        if count >= self.most {
            return None;
        }
        open.insert(peer, count + 1);
        Some(Seat { peer, open: Arc::clone(&self.open) })
    }
}

// === impl Seat ===

impl Seat {
    /// Whose it is.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        let count = open.get_mut(&self.peer).expect("it was counted");
        *count -= 1;
        if *count == 0 {
            open.remove(&self.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the second address is counted with the first.
    fn are_one(one: &str, other: &str) -> bool {
        let peers = Peers::new(1);
        let seat = peers.seat(one.parse().unwrap());
        assert!(seat.is_some(), "the first of {one}");
        peers.seat(other.parse().unwrap()).is_none()
    }

    #[test]
    fn who_has_one_address_is_one_peer() {
        assert!(are_one("192.0.2.1", "192.0.2.1"));
        assert!(!are_one("192.0.2.1", "192.0.2.2"));
        assert!(are_one("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(are_one("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"));
        assert!(!are_one("2001:db8:0:1::1", "2001:db8:0:2::1"));
        assert!(!are_one("::ffff:192.0.2.1", "::ffff:192.0.2.2"));
    }

    #[test]
    fn a_seat_is_free_again_and_leaves_nothing() {
        let peers = Peers::new(2);
        let address = "192.0.2.1".parse().unwrap();
        let (first, second) = (peers.seat(address), peers.seat(address));
        assert!(second.is_some() && peers.seat(address).is_none());
        drop(first);
        let third = peers.seat(address);
        assert!(third.is_some() && peers.seat(address).is_none());
        drop((second, third));
        assert!(peers.open.lock().is_empty());
    }
}
