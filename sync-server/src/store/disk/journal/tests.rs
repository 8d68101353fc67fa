//! What the journal gives back is what was written, up to the first record that cannot be.

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::files::Files;
use super::*;

const STORE: u128 = 7;

type Changes = Vec<(Vec<u8>, Option<Bytes>)>;

fn files(dir: &TempDir) -> Files {
    Files::named(dir.path(), "")
}

fn open(dir: &TempDir, folded: u64) -> (Journal, Replay) {
    Journal::open(&files(dir), STORE, folded).unwrap()
}

fn change(key: u8, value: Option<u8>) -> Changes {
    vec![(vec![key], value.map(|value| Bytes::from(vec![value; 40])))]
}

fn through(dir: &TempDir, folded: u64) -> u64 {
    open(dir, folded).1.through
}

fn changes() -> impl Strategy<Value = Changes> {
    let key = prop::collection::vec(any::<u8>(), 0..40);
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..60).prop_map(Bytes::from));
    prop::collection::vec((key, value), 1..8)
}

proptest! {
    /// G3: what was written comes back, from whichever file, and nothing that sled has.
    #[test]
    fn what_was_written_is_replayed(batches in prop::collection::vec(changes(), 1..12), turn in 0..12_usize, folded in 0..12_u64) {
        let dir = TempDir::new().unwrap();
        let (mut journal, nothing) = open(&dir, 0);
        prop_assert_eq!(nothing, Replay::default());
        let mut expected = Replay::default();
        for (number, batch) in batches.iter().enumerate() {
            if number == turn {
                journal.turn().unwrap();
            }
            let sequence = number as u64 + 1;
            journal.append(sequence, batch).unwrap();
            if sequence > folded {
                expected.rows.extend(batch.iter().cloned());
            }
        }
        expected.through = (batches.len() as u64).max(folded);
        drop(journal);
        prop_assert_eq!(open(&dir, folded).1, expected);
    }

    /// G2, G5: a flipped bit ends the journal there; whoever was told of more refuses the store.
    #[test]
    fn a_flipped_bit_ends_it(batches in prop::collection::vec(changes(), 1..6), at in any::<prop::sample::Index>(), bit in 0..8) {
        let dir = TempDir::new().unwrap();
        let (mut journal, _) = open(&dir, 0);
        let mut ends = vec![0];
        for (sequence, batch) in (1..).zip(&batches) {
            journal.append(sequence, batch).unwrap();
            ends.push(journal.end);
        }
        let path = dir.path().join(NAMES[0]);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(usize::try_from(journal.end).unwrap());
        bytes[at] ^= 1_u8 << bit;
        fs::write(&path, bytes).unwrap();
        let whole = ends.iter().filter(|end| **end <= at as u64).count() as u64 - 1;
        prop_assert_eq!(through(&dir, 0), whole);
    }
}

/// G5: what lay in a file before it was written again is not taken for its end.
#[test]
fn earlier_turns_are_not_replayed() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(&dir, 0);
    for sequence in 1..=3 {
        journal.append(sequence, &change(1, Some(1))).unwrap();
    }
    journal.turn().unwrap();
    journal.append(4, &change(2, Some(4))).unwrap();
    journal.turn().unwrap();
    // In the place of batch 1, so that 2 and 3 stand behind it.
    journal.append(5, &change(1, Some(5))).unwrap();
    let (_, replay) = open(&dir, 3);
    assert_eq!(replay.through, 5);
    assert_eq!(replay.rows, change(1, Some(5)).into_iter().chain(change(2, Some(4))).collect());
}

/// G2: a batch that a power cut left behind a torn one is never taken for the successor of a
/// batch that was written in the place of the torn one.
#[test]
fn what_another_life_left_is_not_replayed() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(&dir, 0);
    for sequence in 1..=3 {
        journal.append(sequence, &change(1, Some(1))).unwrap();
    }
    journal.slots[0].file.write_all_at(&[0; 4], 0).unwrap();
    assert_eq!(through(&dir, 0), 0);
    let (mut journal, _) = open(&dir, 0);
    journal.append(1, &change(1, Some(2))).unwrap();
    assert_eq!(through(&dir, 0), 1, "2 and 3 are of another life");
    journal.append(2, &change(1, None)).unwrap();
    assert_eq!(open(&dir, 0).1.rows, change(1, None).into_iter().collect());
}

/// G3: a journal that misses a batch is damaged, not short.
#[test]
fn a_gap_is_damage() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(&dir, 0);
    journal.append(1, &change(1, Some(1))).unwrap();
    journal.append(2, &change(1, Some(1))).unwrap();
    journal.turn().unwrap();
    journal.append(3, &change(1, Some(1))).unwrap();
    fs::write(dir.path().join(NAMES[0]), []).unwrap();
    let refused = Journal::open(&files(&dir), STORE, 1).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
    assert_eq!(through(&dir, 2), 3);
}

/// G9: the journal of another store says nothing.
#[test]
fn another_store_is_not_replayed() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(&dir, 0);
    journal.append(1, &change(1, Some(1))).unwrap();
    assert_eq!(Journal::open(&files(&dir), STORE + 1, 0).unwrap().1, Replay::default());
}
