//! What a start does first: compares what sled and the journal hold with what the store has said
//! before, and brings into sled what only the journal has.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use parking_lot::RwLock;

use super::super::StoreError;
use super::files::Files;
use super::folding::Target;
use super::high_water::Mark;
use super::journal::{Journal, Replay};
use super::layout::{Ledger, STATE_KEY};
use super::overlay::Overlay;
use super::pace::Pace;
use super::{damaged, sled_error};

/// What sled says that it holds; `None`: nothing.
pub(super) fn read_ledger(db: &sled::Db) -> Result<Option<Ledger>, StoreError> {
    let doing = "reading the ledger row";
    let row = db.get(STATE_KEY).map_err(|error| sled_error(doing, error))?;
    row.map(|row| Ledger::decode(&row).ok_or_else(|| damaged("the ledger row cannot be read")))
        .transpose()
}

/// Opens the journal and brings into sled what it holds. Without a `mark` everything is taken as it
/// is; with one, a store is refused, before a byte changes, that is older than it said before, or
/// another one.
pub(super) fn replay(
    files: &Files,
    db: &sled::Db,
    mark: Option<Mark>,
) -> Result<(Ledger, Journal), StoreError> {
    let ledger = read_ledger(db)?;
    let refuse = |reason: Option<String>| match reason {
        Some(reason) => Err(StoreError::WentBack { reason }),
        None => Ok(()),
    };
    let Some(ledger) = ledger else {
        refuse(mark.and_then(|mark| went_back(None, mark)))?;
        return Err(damaged("there is no ledger row"));
    };
    if let Some(mark) = mark.filter(|mark| mark.store != ledger.store) {
        refuse(went_back(Some(&ledger), mark))?;
    }
    let (journal, Replay { rows, through }) = Journal::open(files, ledger.store, ledger.sequence)?;
    let replayed = Ledger { sequence: through, ..ledger };
    refuse(mark.and_then(|mark| went_back(Some(&replayed), mark)))?;
    let (turns, torn) = (RwLock::<Overlay>::default(), AtomicBool::default());
    let target = Target { db, turns: &turns, torn: &torn };
    let told = &mut |_| ControlFlow::Continue(());
    let ledger = target.fold(ledger, &rows, through, &mut Pace::default(), told)?;
    let ledger = ledger.expect("nobody has it given up");
    Ok((ledger, journal))
}

/// How the store falls short of what it said before.
pub(super) fn went_back(ledger: Option<&Ledger>, mark: Mark) -> Option<String> {
    match ledger {
        None => Some(format!("it is empty, but batch {} was synced", mark.sequence)),
        Some(ledger) if ledger.store != mark.store => Some("it is another store".to_owned()),
        Some(ledger) if ledger.sequence < mark.sequence => {
            let (ends, synced) = (ledger.sequence, mark.sequence);
            Some(format!("it ends with batch {ends}, but {synced} was synced"))
        }
        Some(_) => None,
    }
}
