//! Commands about the server as a whole: verify, drain.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use sync_client::client::Verified;

use crate::Context;
use crate::args::duration;
use crate::exit::{Exit, Failure};
use crate::output::Colour;
use crate::progress;
use crate::write::agreed;

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Only collections whose names begin with this.
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Time that open calls get, 1s to 300s. Not given: as the server is configured.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

pub(crate) async fn verify(context: &mut Context, asked: &Verify) -> Result<Exit, Failure> {
    let began = Instant::now();
    let mut verification = context.client.verify(&asked.prefix).await?;
    let bar = progress::of_rows(&context.output);
    let mut last = Verified::default();
    let mut unsettled = 0;
    while let Some(told) = verification.next().await? {
        bar.set_length(told.estimated_rows);
        bar.set_position(told.rows);
        bar.set_message(format!("{} collections", told.collections));
        bar.suspend(|| tell(context, &told))?;
        unsettled += told.unsettled.len();
        last = told;
    }
    bar.finish_and_clear();
    let took = began.elapsed();
    let Verified { rows, collections, findings_count, .. } = last;
    if context.output.json() {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        context.output.object(&json!({
            "rows": rows, "collections": collections, "findings_count": findings_count,
            "unsettled_count": unsettled, "took_ms": took_ms,
        }))?;
    } else {
        let colour = if findings_count == 0 { Colour::Green } else { Colour::Red };
        let line = format!(
            "verified {collections} collections, {rows} rows, in {took:.1?}: \
             {findings_count} finding(s), {unsettled} not checked"
        );
        context.output.coloured_line(colour, &line)?;
    }
    if findings_count > 0 {
        return Err(Failure::Unsound(findings_count));
    }
    Ok(Exit::Done)
}

/// What was found since it was last told.
fn tell(context: &mut Context, told: &Verified) -> Result<(), Failure> {
    for finding in &told.findings {
        if context.output.json() {
            context.output.object(&json!({ "finding": finding }))?;
        } else {
            context.output.coloured_line(Colour::Red, finding)?;
        }
    }
    for name in &told.unsettled {
        if context.output.json() {
            context.output.object(&json!({ "unsettled": name }))?;
        } else {
            let line = format!("{name}: changed all the time and was not checked; try again");
            context.output.coloured_line(Colour::Yellow, &line)?;
        }
    }
    Ok(())
}

pub(crate) async fn drain(context: &mut Context, asked: &Drain) -> Result<Exit, Failure> {
    let server = context.connection.server.clone();
    let question = format!("End the server at {server}? Its clients must find another one.");
    if !asked.yes && !agreed(context, question).await? {
        return Err(Failure::Interrupted { next_step: Some("the server goes on".into()) });
    }
    context.client.drain(asked.grace).await?;
    if context.output.json() {
        context.output.object(&json!({ "draining": server }))?;
    } else {
        let line = format!(
            "{server} drains: streams are told to come back elsewhere, open calls get their grace, \
             then it exits with code 0"
        );
        context.output.line(&line)?;
    }
    Ok(Exit::Done)
}
