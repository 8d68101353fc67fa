//! What happens, in order: the history is replayed commit by commit while one follower is online
//! all the time and one misses the last nine months; then that one comes back, and a new one
//! arrives.

use std::time::{Duration, Instant};

use indicatif::HumanBytes;
use sync_client::client::CollectionInfo;
use sync_client::types::Commit;
use sync_client::{MemoryStore, SyncClient};
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use crate::Error;
use crate::download::{Cost, download};
use crate::follower::{Follower, Place};
use crate::history::{History, state_sha256};
use crate::report::{Report, Row};
use crate::screen::Screen;
use crate::server::Server;

/// The follower that goes away does so after this transaction, nine months before the end.
const AWAY_AFTER: usize = 2_550;
/// Commits between two looks at the followers for the screen.
const SHOW_EVERY: usize = 10;

/// The stage.
struct Stage<'a> {
    history: &'a History,
    screen: &'a Screen,
    server: Server,
    writer: SyncClient,
    always: Follower,
    /// Online until it goes away.
    away: Option<Follower>,
    /// What downloading everything cost at each checkpoint.
    downloads: Vec<Cost>,
    /// Bytes of a download after every commit, each counted like that of the next checkpoint.
    download_each_commit: u64,
    /// Checkpoints at which the follower that is always online had the proven state.
    checkpoints_proven: usize,
}

/// Plays it all.
pub(crate) async fn play(history: &History, screen: &Screen) -> Result<Report, Error> {
    let begun = Instant::now();
    let files = tempfile::tempdir()?;
    let tasks = TaskTracker::new();
    let server = Server::start(&tasks).await?;
    let address = server.address;
    let always = Follower::start(address, Place::Memory(MemoryStore::new())).await?;
    let away = Follower::start(address, Place::disk(&away_file(&files))?).await?;
    let mut stage = Stage {
        history,
        screen,
        writer: SyncClient::connect(format!("http://{address}"))?,
        server,
        always,
        away: Some(away),
        downloads: Vec::new(),
        download_each_commit: 0,
        checkpoints_proven: 0,
    };
    screen.say("A server on the embedded store, eight years of history, three followers.")?;
    let replayed = stage.replay().await?;

    let heads = stage.heads().await?;
    let full = *stage.downloads.last().ok_or("the data set has no checkpoint")?;
    let last = history.transactions.len();
    screen.say(&format!("{}  \"away\" comes back, \"new\" arrives", history.day(last)))?;
    let place = Place::disk(&away_file(&files))?;
    let away = stage.catch_up("away", place, &screen.away, &heads, full).await?;
    let place = Place::disk(&files.path().join("new.redb"))?;
    let new = stage.catch_up("new", place, &screen.new, &heads, full).await?;
    let always = stage.always_row(&heads).await?;
    screen.finish();

    let Stage { server, always: follower, downloads, .. } = stage;
    follower.stop().await?;
    server.stop().await?;
    Ok(Report {
        transactions: last,
        first_day: history.day(1).to_owned(),
        away_since: history.day(AWAY_AFTER).to_owned(),
        missed: last - AWAY_AFTER,
        last_day: history.day(last).to_owned(),
        replay_seconds: replayed.as_secs_f64(),
        full_downloads: downloads.len(),
        download_each_commit: stage.download_each_commit,
        checkpoints_proven: stage.checkpoints_proven,
        checkpoints: history.manifest.checkpoints.len(),
        state_sha256: history.manifest.final_state_sha256.clone(),
        collections_expected: history.manifest.collections_ever,
        rows: vec![always, away, new],
        seconds: begun.elapsed().as_secs_f64(),
    })
}

fn away_file(files: &TempDir) -> std::path::PathBuf {
    files.path().join("away.redb")
}

// === impl Stage ===

impl Stage<'_> {
    /// Commits the history, transaction by transaction. Returns the time that the commits took.
    async fn replay(&mut self) -> Result<Duration, Error> {
        let (mut took, mut checked) = (Duration::ZERO, 0);
        let mut checkpoints = self.history.manifest.checkpoints.iter().peekable();
        for transaction in &self.history.transactions {
            let begun = Instant::now();
            let mutations = transaction.mutations.clone();
            self.writer.commit(Commit { mutations, ..Commit::default() }).await?;
            took += begun.elapsed();
            self.show(transaction.tx, took);
            if let Some(checkpoint) = checkpoints.next_if(|next| next.tx == transaction.tx) {
                let full = self.check(&checkpoint.state_sha256).await?;
                self.download_each_commit += full.bytes * (transaction.tx - checked) as u64;
                checked = transaction.tx;
            }
            if transaction.tx == AWAY_AFTER {
                self.leave().await?;
            }
        }
        Ok(took)
    }

    fn show(&self, tx: usize, took: Duration) {
        let history = &self.screen.history;
        history.set_position(tx as u64);
        if !tx.is_multiple_of(SHOW_EVERY) && tx < self.history.transactions.len() {
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = tx as f64 / took.as_secs_f64();
        history.set_message(format!("{}  {rate:.0} commits/s", self.history.day(tx)));
        let follower = &self.always;
        Screen::online(&self.screen.always, follower.copies().holding(), follower.traffic().0);
        if let Some(away) = &self.away {
            Screen::online(&self.screen.away, away.copies().holding(), away.traffic().0);
        }
    }

    /// At a checkpoint the follower must have the proven state; and this is when a client
    /// without a cursor would download everything.
    async fn check(&mut self, expected: &str) -> Result<Cost, Error> {
        let heads = self.heads().await?;
        self.always.copies().caught_up(&heads, |_| {}).await?;
        let found = state_sha256(&self.always.copies().state()?)?;
        self.checkpoints_proven += usize::from(found == expected);
        let present = heads.into_iter().filter(|info| info.head.items > 0).map(|info| info.name);
        let full = download(self.server.address, present).await?;
        self.downloads.push(full);
        Ok(full)
    }

    /// The follower goes away; it has everything up to this moment.
    async fn leave(&mut self) -> Result<(), Error> {
        let Some(away) = self.away.take() else { return Ok(()) };
        let heads = self.heads().await?;
        away.copies().caught_up(&heads, |_| {}).await?;
        let (received, _) = away.traffic();
        away.stop().await?;
        let day = self.history.day(AWAY_AFTER);
        let received = HumanBytes(received);
        self.screen.away.set_message(format!("offline  since {day}, had received {received}"));
        self.screen.say(&format!("{day}  \"away\" goes offline"))?;
        Ok(())
    }

    /// All collections of the server, which nobody writes to at this moment.
    async fn heads(&self) -> Result<Vec<CollectionInfo>, Error> {
        let (mut heads, mut token) = (Vec::new(), None);
        loop {
            let page = self.writer.list_collections("", token).await?;
            heads.extend(page.entries);
            token = page.next;
            if token.is_none() {
                return Ok(heads);
            }
        }
    }

    /// A follower goes online and catches up. `full` = what downloading everything costs now.
    async fn catch_up(
        &self,
        name: &'static str,
        place: Place,
        line: &indicatif::ProgressBar,
        heads: &[CollectionInfo],
        full: Cost,
    ) -> Result<Row, Error> {
        Screen::catching_up(line, heads.len());
        let begun = Instant::now();
        let follower = Follower::start(self.server.address, place).await?;
        let copies = follower.copies();
        copies.caught_up(heads, |equal| line.set_position(equal as u64)).await?;
        let time = begun.elapsed();
        let (received, sent) = follower.traffic();
        line.disable_steady_tick();
        line.set_message(format!("in {:.2} s, {}", time.as_secs_f64(), HumanBytes(received)));
        let row = row(name, &follower, heads, time, full)?;
        follower.stop().await?;
        Ok(Row { received, sent, ..row })
    }

    /// How the follower did that was always there: against a full download at each checkpoint.
    async fn always_row(&self, heads: &[CollectionInfo]) -> Result<Row, Error> {
        let begun = Instant::now();
        self.always.copies().caught_up(heads, |_| {}).await?;
        let full = self.downloads.iter().fold(Cost::default(), |sum, cost| sum.and(*cost));
        row("always", &self.always, heads, begun.elapsed(), full)
    }
}

/// How a follower did.
fn row(
    name: &'static str,
    follower: &Follower,
    heads: &[CollectionInfo],
    time: Duration,
    full: Cost,
) -> Result<Row, Error> {
    let copies = follower.copies();
    let (holding, (received, sent)) = (copies.holding(), follower.traffic());
    Ok(Row {
        replica: name,
        followed: holding.collections,
        items: holding.items,
        received,
        sent,
        catch_up: time,
        full,
        repairs: holding.repairs,
        digest_checks: holding.digest_checks,
        equal: copies.equal(heads),
        collections: heads.len(),
        state_sha256: state_sha256(&copies.state()?)?,
    })
}
