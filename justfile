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

# Lint the protocol, and compare it with the last release (pip install buf-bin).
proto-lint:
    buf lint proto && .ci/wire buf

# Kill a writing process many times.
crash CYCLES="200":
    DELTASYNC_CRASH_CYCLES={{ CYCLES }} cargo test --workspace -- --nocapture kill crashes::

# Cut the power of a writing server many times (root, e2fsprogs, perl, eatmydata).
power-cuts CUTS="400":
    DELTASYNC_POWER_CUTS={{ CUTS }} cargo test -p sync-tests --test proof power_cuts -- --nocapture

# Kill the server at every system call of a start, of work and of a stop (root, strace).
kill-points POINTS="all":
    DELTASYNC_KILL_POINTS={{ POINTS }} cargo test -p sync-tests --test proof kills -- --nocapture

# Kill a restore at every system call (root, strace).
restore-kills KILLS="all":
    DELTASYNC_RESTORE_KILLS={{ KILLS }} cargo test -p sync-tests --test proof restores -- --nocapture

# Record what clients see of a server that is killed, and check it.
histories COUNT="10":
    DELTASYNC_HISTORIES={{ COUNT }} DELTASYNC_HISTORY_STEPS=2000 DELTASYNC_HISTORY_KILLS=20 cargo test -p sync-tests --test proof histories -- --nocapture

# Fill disks, and let system calls fail (root, strace).
disk-faults FAULTS="200":
    DELTASYNC_DISK_FAULTS={{ FAULTS }} cargo test -p sync-tests --test proof disks -- --nocapture

# Flip bits and cut files of a server's data directory.
damage DAMAGES="200":
    DELTASYNC_DAMAGES={{ DAMAGES }} cargo test -p sync-tests --test proof damage -- --nocapture

# Attack a server as it comes, in many ways, and judge what its clients saw.
attacks SECS="15":
    DELTASYNC_ATTACK_SECS={{ SECS }} cargo test --release --workspace --locked --test proof attacks -- --nocapture

# Fuzz what parses foreign bytes: requests web access responses page_tokens store_rows whole_stores
# disk_layout journal backups replica_rows notes (cargo install cargo-fuzz).
fuzz TARGET SECONDS="600":
    RUSTC_BOOTSTRAP=1 cargo fuzz run -s none {{ TARGET }} -- -max_total_time={{ SECONDS }}

# Replay the real histories beside the checkout.
replay:
    cargo test -p sync-tests replays:: -- --nocapture

# Simulate many bad networks.
sim SEEDS="20000":
    DELTASYNC_SEEDS={{ SEEDS }} cargo test --workspace --test simulation -- --nocapture

# Put deliberate faults into a copy of the code and see the simulation catch each (about 1 min each).
mutate NAME="":
    cargo run -p sync-tests --bin mutate -- "{{ NAME }}"

# Measure beside the peers that are installed: table, JSON and charts in target/bench/report.
bench *ARGS:
    cargo run --profile dist -p sync-benches --bin compare -- {{ ARGS }}

# Count the instructions of the pure core against the budget (valgrind); `just count --write` renews it.
count *ARGS:
    CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=false cargo bench --workspace --bench instructions --profile dev -- {{ ARGS }}

# The gate, as CI runs it.
ci:
    .ci/run
