//! `syncctl`: reads, writes and follows the collections of a deltasync server. Wiring only: the
//! command line is in `args`, what the commands do in the files of their names.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use serde_json::json;
use sync_client::SyncClient;

use crate::args::{Cli, Command, Connection};
use crate::exit::{Exit, Failure};
use crate::output::Output;

mod admin;
mod args;
mod backup;
mod clients;
mod exit;
mod explain;
mod export;
mod follow;
mod followers;
mod health;
mod import;
mod interrupt;
mod operating;
mod output;
mod progress;
mod read;
mod record;
mod replica;
mod source;
mod text;
mod top;
mod watch;
mod window;
mod write;

/// What is left of the runtime when a command has ended gets this long: a thread that reads from
/// a terminal cannot be called back.
const RUNTIME_GRACE: Duration = Duration::from_millis(100);

/// What every command works with.
struct Context {
    client: SyncClient,
    connection: Connection,
    output: Output,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return refuse(&refused),
    };
    if cli.connection.verbose {
        start_logging();
    }
    let (json, server) = (cli.json, cli.connection.server.clone());
    let exit = match run(cli) {
        Ok(exit) => exit,
        Err(failure) => {
            report(&failure, &server, json);
            failure.exit()
        }
    };
    ExitCode::from(exit as u8)
}

/// Prints help, or what is wrong with the command line: as JSON for who asked for it.
fn refuse(refused: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().skip(1).take_while(|arg| arg != "--");
    if refused.use_stderr() && wants_json.into_iter().any(|arg| arg == "--json") {
        let text = refused.to_string();
        let reason = text.lines().next().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason);
        report(&Failure::Usage(reason.to_owned()), "", true);
    } else {
        // Nothing is left to do about a closed output.
        let _told = refused.print();
    }
    ExitCode::from(u8::try_from(refused.exit_code()).unwrap_or(Exit::Usage as u8))
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::io("starting"))?;
    let ended = runtime.block_on(async {
        // Whoever follows makes a name for itself. Other commands have none: the server need not
        // remember them when they have ended.
        let named = cli.connection.client_id.as_deref().unwrap_or_default();
        let client = client(&cli.connection, named)?;
        let output = Output::new(cli.json);
        let mut context = Context { client, connection: cli.connection, output };
        let ended = carry_out(&mut context, cli.command).await;
        context.output.flush()?;
        ended
    });
    runtime.shutdown_timeout(RUNTIME_GRACE);
    ended
}

async fn carry_out(context: &mut Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Put(put) => write::put(context, put).await,
        Command::Get(get) => read::get(context, get).await,
        Command::Delete(delete) => write::delete(context, delete).await,
        Command::List(list) => read::list(context, list).await,
        Command::Head(head) => read::head(context, &head).await,
        Command::Watch(watch) => watch::watch(context, watch).await,
        Command::Window(asked) => window::window(context, asked).await,
        Command::Import(import) => import::import(context, import).await,
        Command::Export(export) => export::export(context, export).await,
        Command::Backup(asked) => backup::backup(context, asked).await,
        Command::Replica(replica) => replica::replica(context, replica).await,
        Command::DeleteCollection(delete) => write::delete_collection(context, &delete).await,
        Command::Inspect(inspect) => admin::inspect(context, &inspect).await,
        Command::Policy(change) => admin::policy(context, &change).await,
        Command::Purge(purge) => admin::purge(context, &purge).await,
        Command::RotateEpoch(rotate) => admin::rotate_epoch(context, &rotate).await,
        Command::Follow(asked) => followers::follow(context, &asked).await,
        Command::Unfollow(asked) => followers::unfollow(context, &asked).await,
        Command::Audience(asked) => followers::audience(context, &asked).await,
        Command::Follows(asked) => followers::follows(context, &asked).await,
        Command::Clients(asked) => clients::clients(context, &asked).await,
        Command::Explain(asked) => explain::explain(context, &asked).await,
        Command::Top(asked) => top::top(context, &asked).await,
        Command::Verify(asked) => operating::verify(context, &asked).await,
        Command::Drain(asked) => operating::drain(context, &asked).await,
        Command::Ack(asked) => clients::ack(context, &asked).await,
        Command::Health => health::health(context).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "syncctl", &mut script);
            context.output.bytes(&script)?;
            Ok(Exit::Done)
        }
    }
}

fn client(connection: &Connection, client_id: &str) -> Result<SyncClient, Failure> {
    let mut builder = SyncClient::builder(&connection.server)
        .client_id(client_id)
        .call_timeout(connection.timeout)
        .retry_for(connection.retry.unwrap_or_default());
    if let Some(token) = &connection.token {
        builder = builder.bearer_token(token);
    }
    if let Some(file) = &connection.token_file {
        builder = builder.token_file(file);
    }
    if let Some(file) = &connection.ca_file {
        builder = builder.ca_file(file);
    }
    if let (Some(certificate), Some(key)) = (&connection.cert_file, &connection.key_file) {
        builder = builder.client_certificate(certificate, key);
    }
    if let Some(name) = &connection.server_name {
        builder = builder.server_name(name);
    }
    Ok(builder.build()?)
}

fn start_logging() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(io::stderr).init();
}

/// Says what failed and what to do next, where it does not mix with the output.
fn report(failure: &Failure, server: &str, json: bool) {
    if matches!(failure, Failure::ClosedPipe) {
        return;
    }
    let (text, next_step) = (failure.text(), failure.next_step(server));
    let said = if json {
        let code = failure.exit() as u8;
        json!({ "error": text, "exit_code": code, "next_step": next_step }).to_string()
    } else {
        let next_step = next_step.map(|step| format!("\n  {step}")).unwrap_or_default();
        format!("syncctl: {text}{next_step}")
    };
    // Nothing is left to do about a closed stderr.
    let _told = writeln!(io::stderr(), "{said}");
}
