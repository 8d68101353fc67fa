# Shortcuts. Each is one line that can also be typed; nothing needs `just`.

# Show the recipes.
default:
    @just --list

# Start a server on 127.0.0.1:7411 that keeps its data in ./demo-data.
run *ARGS:
    cargo run --release --bin sync-server -- --data-dir demo-data {{ ARGS }}

# Replay a real history with three replicas and print the table.
demo:
    cargo run --release --bin demo

# All tests.
test:
    cargo test --workspace

# What the gate says about form.
lint:
    cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings

# Build and open the API documentation.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --open

# Lint the protocol (pip install buf-bin).
proto-lint:
    buf lint proto

# Kill a writing process many times.
crash CYCLES="200":
    DELTASYNC_CRASH_CYCLES={{ CYCLES }} cargo test --workspace -- --nocapture kill crashes::

# Replay the real histories beside the checkout.
replay:
    DELTASYNC_REPLAY=all cargo test -p sync-tests replays:: -- --nocapture

# Simulate many bad networks.
sim SEEDS="20000":
    DELTASYNC_SEEDS={{ SEEDS }} cargo test --workspace --test simulation -- --nocapture

# Put deliberate faults into a copy of the code and see the simulation catch each (about 1 min each).
mutate NAME="":
    cargo run -p sync-tests --bin mutate -- "{{ NAME }}"

# The gate, as CI runs it.
ci:
    .ci/run
