//! The house rules that a compiler does not check: who may use what, how long a file and a
//! function may be, which names say nothing.

use std::fs;
use std::path::{Path, PathBuf};

use sync_tests::data::workspace;
use sync_tests::mutation;

/// Lines of a file.
const FILE_LINES_MAX: usize = 500;

/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 70;

/// What cannot be said in safe Rust: a sync in sled, and how the allocator tidies up.
const UNSAFE_PLACES: [&str; 2] =
    ["sync-server/src/allocator.rs", "sync-server/src/store/disk/real_sync.rs"];

/// Names that fit every file and so say nothing.
const EMPTY_NAMES: [&str; 7] =
    ["utils", "common", "helpers", "models", "constants", "prelude", "traits"];

/// Who of us may depend on whom, also for tests: server and client never see each other.
const ARROWS: [(&str, &[&str]); 7] = [
    ("proto", &[]),
    ("sync-server", &["sync-proto"]),
    ("sync-client", &["sync-proto"]),
    ("tests", &["sync-client", "sync-proto", "sync-server"]),
    ("examples", &["sync-client", "sync-proto", "sync-server"]),
    ("conformance", &["sync-client", "sync-proto", "sync-server"]),
    // It measures the program that users run, not a library.
    ("benches", &["sync-client", "sync-proto"]),
];

/// Words that belong to some places of a crate's sources, and to no other.
const BORDERS: [Border; 11] = [
    Border {
        within: "sync-server/src",
        words: &["tonic::", "tonic_"],
        places: &["rpc/", "server.rs", "server/", "status.rs", "status/"],
        why: "gRPC ends at the door",
    },
    Border {
        within: "sync-client/src",
        words: &["tonic::"],
        // The health of a server is a protocol of its own, which only the program asks for.
        places: &["client/", "bin/syncctl/health.rs"],
        why: "gRPC ends at the door",
    },
    Border {
        within: "sync-server/src",
        words: &["sled::"],
        places: &["store/disk.rs", "store/disk/"],
        why: "one engine knows its library",
    },
    Border {
        within: "sync-server/src",
        words: &["opentelemetry"],
        places: &["traces.rs", "traces/", "server/collector.rs", "server/spans.rs"],
        why: "what spans may say is said in one place",
    },
    Border {
        within: "sync-client/src",
        words: &["redb::"],
        places: &["store/disk.rs", "store/disk/"],
        why: "one engine knows its library",
    },
    Border {
        within: "sync-server/src",
        words: &["v1::"],
        // Collectors have a protocol of their own.
        places: &["rpc/", "server.rs", "server/collector.rs"],
        why: "wire types die at the door",
    },
    Border {
        within: "sync-client/src",
        words: &["v1::"],
        places: &["client/"],
        why: "wire types die at the door",
    },
    Border {
        within: "proto/src",
        words: &["v1::"],
        // What has too many lists is refused before it is decoded, so by what it is on the wire.
        places: &["convert/", "lib.rs", "lists.rs"],
        why: "one place knows wire and types",
    },
    Border {
        within: "sync-server/src/core",
        words: CLOCKS_AND_DICE,
        places: &[],
        why: "time and chance are arguments",
    },
    Border {
        within: "sync-client/src/account/desk",
        words: CLOCKS_AND_DICE,
        places: &[],
        why: "time and chance are arguments",
    },
    Border {
        within: "sync-client/src/session",
        words: CLOCKS_AND_DICE,
        places: &[],
        why: "time and chance are arguments",
    },
];

const CLOCKS_AND_DICE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "rand::random",
    "rand::rng()",
    "from_os_rng",
    "tokio::",
];

/// Test files that start and kill processes, serve, or play a slow disk: they wait for a process
/// to end, kill at a random moment, or beat time.
const HARNESSES: [&str; 9] = [
    "examples/tests/cli/programs.rs",
    "sync-client/tests/account/kills.rs",
    "sync-client/tests/replica/service.rs",
    "sync-client/tests/store_crash.rs",
    "sync-server/src/server/tests.rs",
    "sync-server/tests/peers/mod.rs",
    "sync-server/tests/store_crash.rs",
    "sync-server/tests/store_flips.rs",
    "tests/proof/attacks/honest.rs",
];

/// Words that stay within places.
struct Border {
    within: &'static str,
    words: &'static [&'static str],
    places: &'static [&'static str],
    why: &'static str,
}

/// A source file, without its comments.
struct Source {
    path: String,
    lines: Vec<String>,
}

#[test]
fn crates_depend_along_the_arrows() {
    let mut findings = Vec::new();
    for (krate, allowed) in ARROWS {
        let manifest = workspace().join(krate).join("Cargo.toml");
        let text = fs::read_to_string(manifest).unwrap();
        let ours = text.lines().filter_map(|line| {
            let (name, _) = line.split_once(['.', ' ', '='])?;
            name.starts_with("sync-").then_some(name)
        });
        for name in ours.filter(|name| !allowed.contains(name)) {
            findings.push(format!("{krate} depends on {name}"));
        }
    }
    assert_none(&findings);
}

#[test]
fn libraries_stay_behind_their_borders() {
    let sources = sources();
    let mut findings = Vec::new();
    for Border { within, words, places, why } in BORDERS {
        let mut met = 0;
        for source in &sources {
            let Some(place) = source.path.strip_prefix(within) else { continue };
            let place = place.trim_start_matches('/');
            met += 1;
            // Unit tests may ask the clock.
            if source.is_test() || places.iter().any(|allowed| place.starts_with(allowed)) {
                continue;
            }
            for (number, line) in source.code().filter(|(_, line)| contains_any(line, words)) {
                findings.push(format!("{}:{number}: {why}: {}", source.path, line.trim()));
            }
        }
        assert!(met > 0, "{within} has no sources: the border is not checked");
    }
    assert_none(&findings);
}

#[test]
fn files_and_functions_are_short() {
    let mut findings = Vec::new();
    for source in sources() {
        let count = source.lines.len();
        if count > FILE_LINES_MAX {
            findings.push(format!("{}: {count} lines, {FILE_LINES_MAX} are allowed", source.path));
        }
        for (number, name, length) in source.functions() {
            if length > FUNCTION_LINES_MAX {
                findings.push(format!("{}:{number}: {name} has {length} lines", source.path));
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn names_say_something() {
    let mut findings = Vec::new();
    for source in sources() {
        let path = Path::new(&source.path).with_extension("");
        let parts = path.iter().map(|part| part.to_str().unwrap());
        for part in parts.filter(|part| EMPTY_NAMES.contains(part)) {
            findings.push(format!("{}: {part}", source.path));
        }
        for (number, line) in source.code() {
            let words = line.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
            let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
            for pair in words.windows(2) {
                let module = pair[0] == "mod" && EMPTY_NAMES.contains(&pair[1]);
                let manager = ["struct", "enum", "trait"].contains(&pair[0])
                    && pair[1].ends_with(concat!("Mana", "ger"));
                if module || manager {
                    findings.push(format!("{}:{number}: {}", source.path, pair[1]));
                }
            }
        }
    }
    assert_none(&findings);
}

/// A test that sleeps is slow on a fast machine and wrong on a slow one: it waits for what it
/// waits for. Only a harness knows the clock.
#[test]
fn tests_wait_for_what_they_wait_for() {
    let words = [concat!("sle", "ep("), concat!("sle", "ep_until(")];
    let mut findings = Vec::new();
    for source in sources().into_iter().filter(Source::is_test) {
        if HARNESSES.contains(&source.path.as_str()) {
            continue;
        }
        for (number, line) in source.code().filter(|(_, line)| contains_any(line, &words)) {
            findings.push(format!("{}:{number}: {}", source.path, line.trim()));
        }
    }
    assert_none(&findings);
}

#[test]
fn unsafe_code_has_its_places() {
    let word = concat!("uns", "afe ");
    let mut findings = Vec::new();
    for source in sources() {
        let allowed = UNSAFE_PLACES.contains(&source.path.as_str());
        for (number, line) in source.code().filter(|(_, line)| !allowed && line.contains(word)) {
            findings.push(format!("{}:{number}: {}", source.path, line.trim()));
        }
    }
    assert_none(&findings);
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let mut findings = Vec::new();
    for source in sources() {
        let lines = (1..).zip(&source.lines).filter(|(_, line)| contains_any(line, &marks));
        findings.extend(lines.map(|(number, line)| format!("{}:{number}: {line}", source.path)));
    }
    assert_none(&findings);
}

/// A deliberate fault that fits the code no more would never be tried, and nobody would notice.
#[test]
fn deliberate_faults_fit_the_code() {
    let faults = mutation::all();
    assert!(faults.len() >= 12, "{} faults prove little", faults.len());
    let stale = faults.iter().filter_map(|fault| fault.apply(workspace()).err());
    assert_none(&stale.collect::<Vec<_>>());
}

/// The rules see what they are meant to see.
#[test]
fn a_function_is_measured_to_its_brace() {
    let text = "fn one() {}\n    async fn two(\n        a: u8,\n    ) {\n        if a {\n        }\n    }\n";
    let source = Source { path: String::new(), lines: text.lines().map(str::to_owned).collect() };
    let functions: Vec<_> = source.functions();
    assert_eq!(functions, [(1, "one".to_owned(), 1), (2, "two".to_owned(), 6)]);
}

fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{} finding(s):\n{}", findings.len(), findings.join("\n"));
}

fn contains_any(line: &str, words: &[&str]) -> bool {
    words.iter().any(|word| line.contains(word))
}

/// Every Rust file of the workspace.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for (krate, _) in ARROWS {
        collect(&workspace().join(krate), &mut paths);
    }
    assert!(paths.len() > 50, "the workspace was not found");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(workspace()).unwrap().to_str().unwrap().to_owned();
        Source { path, lines: text.lines().map(str::to_owned).collect() }
    };
    paths.into_iter().map(read).collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

// === impl Source ===

impl Source {
    /// Whether it holds tests and nothing else.
    fn is_test(&self) -> bool {
        let in_crate = self.path.starts_with("tests/") && !self.path.starts_with("tests/src/");
        in_crate || self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// Numbered lines without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.lines.iter().map(|line| line.split("//").next().unwrap_or_default()))
    }

    /// Functions: where they begin, their names, how many lines they have. Relies on the
    /// indentation that `cargo fmt` gives.
    fn functions(&self) -> Vec<(usize, String, usize)> {
        let mut found = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            let Some(name) = function_name(line) else { continue };
            let indent = " ".repeat(line.len() - line.trim_start().len());
            let (end, declared) = (format!("{indent}}}"), format!("{indent})"));
            let one_line = line.ends_with('}') || line.ends_with(';');
            let length = if one_line {
                Some(1)
            } else {
                let body = self.lines[index..].iter().position(|line| {
                    *line == end || (line.starts_with(&declared) && line.ends_with(';'))
                });
                body.map(|last| last + 1)
            };
            found.extend(length.map(|length| (index + 1, name, length)));
        }
        found
    }
}

fn function_name(line: &str) -> Option<String> {
    let code = line.trim_start();
    let (before, after) = code.split_once("fn ")?;
    let modifiers = before.split(' ').filter(|word| !word.is_empty());
    let known = |word: &str| {
        ["const", "async", "unsafe", "extern", "\"C\"", "pub"].contains(&word)
            || word.starts_with("pub(")
            || word.ends_with(')')
    };
    modifiers.into_iter().all(known).then(|| {
        after.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
    })
}
