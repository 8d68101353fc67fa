//! Plays a case against a client.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::backend::BackendError;
use crate::catalogue::{Case, Mode};
use crate::stage::Stage;

/// Why a case could not be played, or what was wrong.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kit's own trouble.
    #[error("the kit's server")]
    Backend(#[from] BackendError),
    /// The client could not be started.
    #[error("the client")]
    Client(#[from] std::io::Error),
    /// The case itself makes no sense.
    #[error("the case asks for something that cannot be: {0}")]
    Case(&'static str),
    /// The client did not do what it must.
    #[error("{0}")]
    Objection(String),
}

impl Failure {
    /// The same; what is objected to is told otherwise.
    #[must_use]
    pub fn more(self, tell: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Objection(text) => Self::Objection(tell(text)),
            Self::Backend(_) | Self::Client(_) | Self::Case(_) => self,
        }
    }
}

/// How a case went.
#[derive(Debug)]
pub struct Played {
    /// Its name.
    pub id: String,
    /// How long it took.
    pub took: Duration,
    /// Calls that the client made.
    pub calls: u64,
    /// What was wrong; empty = it is passed.
    pub objections: Vec<String>,
}

/// Plays these cases, so many at once; they come back in order.
pub async fn play_all(cases: Vec<Case>, command: Vec<String>, jobs: usize) -> Vec<Played> {
    let tasks = TaskTracker::new();
    let command: Arc<[String]> = command.into();
    let playing = futures::stream::iter(cases).map(|case| {
        let command = Arc::clone(&command);
        tasks.spawn(async move { play(&case, &command).await })
    });
    let played: Vec<_> = playing.buffered(jobs).collect().await;
    played.into_iter().map(|played| played.expect("a case does not panic")).collect()
}

/// Plays one case.
pub async fn play(case: &Case, command: &[String]) -> Played {
    let begun = Instant::now();
    let (calls, objections) = match play_steps(case, command).await {
        Ok(found) => found,
        Err(failure) => (0, vec![describe(&failure)]),
    };
    Played { id: case.id.clone(), took: begun.elapsed(), calls, objections }
}

async fn play_steps(case: &Case, command: &[String]) -> Result<(u64, Vec<String>), Failure> {
    let mut stage = Stage::set(case, command).await?;
    let mut went = Ok(());
    for (index, step) in case.steps.iter().enumerate() {
        went = stage
            .step(step)
            .await
            .map_err(|failure| failure.more(|text| format!("step {index} ({step:?}): {text}")));
        if went.is_err() {
            break;
        }
    }
    if went.is_ok() {
        went = match case.mode {
            Mode::Follow | Mode::Inbox | Mode::Window => stage.copied().await,
            Mode::Write | Mode::Import => stage.written().await,
            Mode::Resume => {
                stage.bounded();
                Ok(())
            }
        };
    }
    let (calls, mut objections) = stage.clear().await?;
    objections.extend(went.err().as_ref().map(describe));
    Ok((calls, objections))
}

fn describe(failure: &Failure) -> String {
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
