//! The real program is killed again and again under load, half of the time before it has finished
//! starting. `DELTASYNC_CRASH_CYCLES` sets how often.

use std::time::Duration;

use rand::RngExt as _;
use sync_tests::process::Program;
use sync_tests::seed::{dice, number};
use sync_tests::traffic::Traffic;
use sync_tests::traffic::plan::Values;

use crate::SERVER;

/// Kills per run when the environment does not say.
const CYCLES: u64 = 14;

/// A new store after so many: what is checked after each kill grows with its past.
const CYCLES_PER_STORE: u64 = 200;

/// G1, G2, G3, G4, T08, T13: through any number of kills no acknowledged commit is lost, none
/// is half there, no version is given twice, heads never go back, a commit of unknown outcome
/// can be sent again, and readers that followed all along are never reset and converge.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_keeps_what_it_acknowledged() {
    let (mut dice, _seed) = dice();
    let mut left = number("DELTASYNC_CRASH_CYCLES").unwrap_or(CYCLES);
    let (mut kills, mut commits) = (0, 0);
    while left > 0 {
        let here = left.min(CYCLES_PER_STORE);
        let dir = tempfile::tempdir().unwrap();
        let program = Program::new(SERVER, dir.path()).with(&["--tombstones-max=200"]);
        let mut traffic = Traffic::new(Values::All);
        for cycle in 0..here {
            let mut process = program.start();
            if cycle % 2 == 1 {
                process.kill_after(Duration::from_micros(dice.random_range(0..30_000))).await;
                continue;
            }
            process.until_serving().await;
            let wire = program.wire();
            traffic.check(&wire).await.unwrap_or_else(|lost| panic!("{lost}"));
            let busy = if dice.random_bool(0.5) { 0..30 } else { 30..400 };
            let kill = process.kill_after(Duration::from_millis(dice.random_range(busy)));
            let (worked, ()) = tokio::join!(traffic.work(&program, u64::MAX), kill);
            worked.unwrap_or_else(|wrong| panic!("{wrong}"));
        }
        let mut process = program.start_serving().await;
        let wire = program.wire();
        traffic.check(&wire).await.unwrap_or_else(|lost| panic!("{lost}"));
        traffic.converge(&wire).await.unwrap_or_else(|wrong| panic!("{wrong}"));
        process.terminate();
        assert!(process.ended().await.success());
        process.check_log();
        (kills, commits) = (kills + here, commits + traffic.known.commits());
        left -= here;
    }
    assert!(commits > 20, "{commits} commits in all");
    eprintln!("{kills} kills, {commits} commits acknowledged, nothing lost");
}
