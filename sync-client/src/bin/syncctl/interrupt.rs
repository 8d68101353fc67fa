//! Being told to end, by whoever is at the terminal or whoever runs the process.

/// Waits for Ctrl-C or SIGTERM. The first process of a container is not ended by a SIGTERM that it
/// does not wait for: whoever stops it would wait in vain, and then kill it.
pub(crate) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Where it cannot be waited for, the command goes on as if nobody had asked.
    drop(tokio::signal::ctrl_c().await);
}
