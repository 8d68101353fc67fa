//! An `error!` means that a human must look: our bug or our disk. So one such event fails every
//! test that ends after it, unless a test of this process lets disks fail, and has said so.

use std::fmt::{Debug, Write as _};
use std::sync::Once;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

/// Errors that were logged in this process.
static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Modules whose errors a test provokes.
static EXCUSED: Mutex<Vec<&str>> = Mutex::new(Vec::new());

/// Notes errors.
struct Alarm;

/// An event as one line.
struct Line(String);

/// Begins to listen; `DELTASYNC_LOG` also shows what is logged, e.g. `debug`.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let shown = EnvFilter::try_from_env("DELTASYNC_LOG").unwrap_or_else(|_| "off".into());
        let lines = fmt::layer().with_writer(std::io::stderr).with_filter(shown);
        tracing_subscriber::registry().with(Alarm).with(lines).init();
    });
}

/// From now on errors of a module prove nothing: a test provokes them.
pub fn excuse(module: &'static str) {
    EXCUSED.lock().push(module);
}

/// Fails if an error was logged.
pub fn check() {
    let seen = SEEN.lock();
    assert!(seen.is_empty(), "a server logged errors: {seen:#?}");
}

impl<S: Subscriber> Layer<S> for Alarm {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        let ours = target.starts_with("sync_") && !EXCUSED.lock().contains(&target);
        if ours && *event.metadata().level() == Level::ERROR {
            let mut line = Line(target.to_owned());
            event.record(&mut line);
            SEEN.lock().push(line.0);
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}
