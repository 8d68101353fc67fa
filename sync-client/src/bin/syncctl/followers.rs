//! Commands about followers: follow, unfollow, audience, follows.

use clap::Args;
use serde::Serialize;
use sync_client::types::{CollectionName, Commit, Mutation, Op, Subject};

use crate::Context;
use crate::args::collection;
use crate::exit::{Exit, Failure};
use crate::output::table;
use crate::write::commit;

/// Who follows what, from now on or no longer.
#[derive(Debug, Args)]
pub(crate) struct Followers {
    /// Name of the collection.
    #[arg(value_parser = collection)]
    collection: CollectionName,
    /// Who.
    #[arg(required = true, value_parser = subject)]
    subjects: Vec<Subject>,
}

/// Whose audience.
#[derive(Debug, Args)]
pub(crate) struct Audience {
    /// Name of the collection.
    #[arg(value_parser = collection)]
    collection: CollectionName,
}

/// Whose follows.
#[derive(Debug, Args)]
pub(crate) struct Follows {
    /// The subject.
    #[arg(value_parser = subject)]
    subject: Subject,
}

/// What followers were told to do, in JSON.
#[derive(Serialize)]
struct FollowedFields<'a> {
    collection: &'a str,
    exists: bool,
    subjects: Vec<&'a str>,
}

/// Who follows what, in JSON.
#[derive(Serialize)]
struct FollowFields<'a> {
    collection: &'a str,
    subject: &'a str,
}

pub(crate) async fn follow(context: &mut Context, asked: &Followers) -> Result<Exit, Failure> {
    let exists = change(context, asked, |subject| Op::Follow { subject }).await?;
    let who = asked.subjects.len();
    let yet = if exists { "" } else { ", which does not exist yet" };
    tell(context, asked, exists, &format!("{who} follow {}{yet}", asked.collection))
}

pub(crate) async fn unfollow(context: &mut Context, asked: &Followers) -> Result<Exit, Failure> {
    let exists = change(context, asked, |subject| Op::Unfollow { subject }).await?;
    let who = asked.subjects.len();
    tell(context, asked, exists, &format!("{who} do not follow {}", asked.collection))
}

/// Whether the collection exists.
async fn change(
    context: &mut Context,
    asked: &Followers,
    op: impl Fn(Subject) -> Op,
) -> Result<bool, Failure> {
    let mutation = |subject: &Subject| Mutation {
        collection: asked.collection.clone(),
        op: op(subject.clone()),
    };
    let mutations = asked.subjects.iter().map(mutation).collect();
    let done = commit(context, Commit { mutations, ..Commit::default() }).await?;
    Ok(done.epoch.is_some())
}

fn tell(
    context: &mut Context,
    asked: &Followers,
    exists: bool,
    line: &str,
) -> Result<Exit, Failure> {
    if context.output.json() {
        let subjects = asked.subjects.iter().map(Subject::as_str).collect();
        let collection = asked.collection.as_str();
        context.output.object(&FollowedFields { collection, exists, subjects })?;
    } else {
        context.output.line(line)?;
    }
    Ok(Exit::Done)
}

pub(crate) async fn audience(context: &mut Context, asked: &Audience) -> Result<Exit, Failure> {
    let (name, mut token) = (&asked.collection, None);
    loop {
        let page = context.client.list_audience(name, token).await?;
        let follows = page.entries.iter().map(|subject| (name.as_str(), subject.as_str()));
        show(context, follows.collect(), "subject", |(_, subject)| subject)?;
        token = page.next;
        if token.is_none() {
            return Ok(Exit::Done);
        }
    }
}

pub(crate) async fn follows(context: &mut Context, asked: &Follows) -> Result<Exit, Failure> {
    let (subject, mut token) = (&asked.subject, None);
    loop {
        let page = context.client.list_follows(subject, token).await?;
        let follows = page.entries.iter().map(|name| (name.as_str(), subject.as_str()));
        show(context, follows.collect(), "collection", |(collection, _)| collection)?;
        token = page.next;
        if token.is_none() {
            return Ok(Exit::Done);
        }
    }
}

/// Each page is a table of its own: an audience may be larger than memory.
fn show<'a>(
    context: &mut Context,
    follows: Vec<(&'a str, &'a str)>,
    what: &str,
    shown: impl Fn((&'a str, &'a str)) -> &'a str,
) -> Result<(), Failure> {
    if context.output.json() {
        for (collection, subject) in follows {
            context.output.object(&FollowFields { collection, subject })?;
        }
        return Ok(());
    }
    if follows.is_empty() {
        return Ok(());
    }
    let mut rows = table(&[what]);
    for follow in follows {
        rows.add_row([shown(follow)]);
    }
    context.output.table(rows)
}

fn subject(text: &str) -> Result<Subject, String> {
    Subject::new(text).map_err(|error| error.to_string())
}
