//! The power fails while commits fly: the server's store lies on an ext4 file system that is shut
//! down under it, so that whatever was not synced is lost. The same under `eatmydata`, which makes
//! every sync a lie, must lose something, or these cuts prove nothing. `DELTASYNC_POWER_CUTS` sets
//! how many, `DELTASYNC_SEED` repeats their dice.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use sync_tests::process::{Process, Program};
use sync_tests::seed::{dice, number};
use sync_tests::traffic::Traffic;
use sync_tests::traffic::known::Violation;
use sync_tests::traffic::plan::Values;
use sync_tests::wait::pass;

use crate::SERVER;
use crate::machine::{Cut, Image, lacks, lacks_power_cuts};
use sync_tests::report::{not_run, report};

/// Cuts per run when the environment does not say.
const CUTS: u64 = 6;

/// A new file system and store after so many: creation is cut as well.
const CUTS_PER_STORE: u64 = 20;

/// Cuts in which a server that does not sync must be caught.
const CONTROL_CUTS: u64 = 12;

/// What befell a run.
#[derive(Debug, Default)]
struct Told {
    cuts: BTreeMap<String, u64>,
    commits: usize,
}

/// A store on a disk whose power fails.
struct World {
    image: Image,
    program: Program,
    traffic: Traffic,
}

/// G2, G3, G4, G7: after any number of power cuts every acknowledged commit is there, none is
/// half there, no version is given to other content, and nothing that was shown is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_loses_nothing_acknowledged_or_shown() {
    const NAME: &str = "power cuts";
    let (mut dice, _seed) = dice();
    if let Some(why) = lacks_power_cuts().or_else(|| lacks(true, &["eatmydata"])) {
        return not_run(NAME, &why);
    }
    let cuts = number("DELTASYNC_POWER_CUTS").unwrap_or(CUTS);
    let told = run(&mut dice, cuts, &[]).await.unwrap_or_else(|violation| panic!("{violation}"));
    report(&format!("power cuts: {told:?}, nothing lost"));
    let lied_to = run(&mut dice, CONTROL_CUTS, &["eatmydata"]).await;
    let Err(Violation(caught)) = lied_to else {
        panic!("a server that never syncs was not caught: the harness proves nothing");
    };
    report(&format!("power cuts: without syncs: {caught}"));
}

/// So many cuts; `through` runs the server.
async fn run(dice: &mut StdRng, cuts: u64, through: &[&str]) -> Result<Told, Violation> {
    let mut told = Told::default();
    let mut left = cuts;
    while left > 0 {
        let here = left.min(CUTS_PER_STORE);
        let mut world = World::new(through);
        for _ in 0..here {
            world.until_cut(dice, &mut told).await?;
        }
        world.last_look().await?;
        told.commits += world.traffic.known.commits();
        left -= here;
    }
    Ok(told)
}

// === impl World ===

impl World {
    fn new(through: &[&str]) -> Self {
        let image = Image::new().unwrap();
        let program = Program::new(SERVER, &image.path().join("data"))
            .with(&["--tombstones-max=200"])
            .through(through);
        Self { image, program, traffic: Traffic::new(Values::All) }
    }

    /// One life of the server, from power to power cut.
    async fn until_cut(&mut self, dice: &mut StdRng, told: &mut Told) -> Result<(), Violation> {
        let data = if dice.random_bool(0.7) { "data=ordered" } else { "data=writeback" };
        self.image.mount(data).unwrap();
        let mut process = self.program.start();
        let how = if dice.random_bool(0.8) { Cut::NothingFlushed } else { Cut::JournalFlushed };
        let during = if dice.random_bool(0.2) {
            pass(Duration::from_millis(dice.random_range(0..250))).await;
            "start"
        } else {
            serving(&mut process).await?;
            self.traffic.check(&self.program.wire()).await?;
            self.work_until(&mut process, how, dice).await?;
            "work"
        };
        self.end(&mut process, how).await;
        *told.cuts.entry(format!("during {during}, {how:?}, {data}")).or_default() += 1;
        Ok(())
    }

    async fn work_until(
        &mut self,
        process: &mut Process,
        how: Cut,
        dice: &mut StdRng,
    ) -> Result<(), Violation> {
        let busy = if dice.random_bool(0.5) { 0..60 } else { 60..900 };
        let busy = Duration::from_millis(dice.random_range(busy));
        // The server of a real cut dies with the disk; one that goes on for a moment must not
        // acknowledge anything either.
        let outlives = Duration::from_millis(dice.random_range(0..3) * 20);
        let image = &self.image;
        let cut = async {
            pass(busy).await;
            image.cut(how).unwrap();
            pass(outlives).await;
            process.kill_anyway();
        };
        let (worked, ()) = tokio::join!(self.traffic.work(&self.program, u64::MAX), cut);
        worked.map(drop)
    }

    /// Takes the power, unless it is gone, the process and the memory of the file system.
    async fn end(&mut self, process: &mut Process, how: Cut) {
        if process.try_ended().is_none() {
            self.image.cut(how).unwrap();
        }
        process.kill_anyway();
        self.image.unmount().await.unwrap();
    }

    /// The store after the last cut; readers that were there all the time included.
    async fn last_look(&mut self) -> Result<(), Violation> {
        self.image.mount("data=ordered").unwrap();
        let mut process = self.program.start();
        serving(&mut process).await?;
        self.traffic.check(&self.program.wire()).await?;
        self.traffic.converge(&self.program.wire()).await?;
        process.kill_anyway();
        self.image.unmount().await.unwrap();
        Ok(())
    }
}

/// A start after a cut needs nobody's help.
async fn serving(process: &mut Process) -> Result<(), Violation> {
    let started = process.serving_or_ended().await;
    started.map_err(|status| {
        process.kill_anyway();
        Violation(format!("refused: {status}: {}", process.log()))
    })
}
