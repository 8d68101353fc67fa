//! What commits that are not durable yet will add below names with a quota. A reservation goes with its
//! commit through the queue, whoever still waits for the answer, and ends when what it was made for
//! shows in the heads: so what is there and what is reserved is never less than what will be there.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::core::stored::Adding;

/// What is reserved, by name.
#[derive(Debug, Clone, Default)]
pub struct Reserves(Arc<Mutex<HashMap<String, u64>>>);

/// What one commit has reserved, until this is dropped.
#[derive(Debug, Default)]
pub struct Reserved {
    reserves: Reserves,
    adding: Vec<Adding>,
}

// === impl Reserves ===

impl Reserves {
    /// Nothing of it yet.
    #[must_use]
    pub fn nothing(&self) -> Reserved {
        Reserved { reserves: self.clone(), adding: Vec::new() }
    }
}

// === impl Reserved ===

impl Reserved {
    /// Reserves this too; all that is reserved there then.
    pub fn add(&mut self, adding: Adding) -> u64 {
        let mut reserves = self.reserves.0.lock();
        let all = reserves.entry(adding.root.clone()).or_default();
        *all = all.saturating_add(adding.bytes);
        self.adding.push(adding);
        *all
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.adding.is_empty() {
            return;
        }
        let mut reserves = self.reserves.0.lock();
        for adding in &self.adding {
            if let Some(all) = reserves.get_mut(&adding.root) {
                *all = all.saturating_sub(adding.bytes);
                if *all == 0 {
                    reserves.remove(&adding.root);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G8: what is reserved counts for others until it is given back, and then costs nothing.
    #[test]
    fn reservations_end_with_their_commits() {
        let reserves = Reserves::default();
        let adding = |bytes| Adding { root: "a".to_owned(), bytes, bytes_max: 100 };
        let (mut one, mut other) = (reserves.nothing(), reserves.nothing());
        assert_eq!((one.add(adding(60)), other.add(adding(30))), (60, 90));
        adding(30).fits(10, 90).unwrap();
        let refused = adding(30).fits(11, 90).unwrap_err().to_string();
        assert!(
            refused.starts_with("stored_bytes: a and what is below it may hold 100"),
            "{refused}"
        );
        assert!(!refused.contains("11"), "what is there may not be the writer's to know");
        drop(one);
        assert_eq!(other.add(adding(1)), 31);
        drop(other);
        assert!(reserves.0.lock().is_empty());
    }
}
