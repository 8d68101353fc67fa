//! The configuration in force as a file that could be given to `--config`, with where each value
//! comes from. Secrets are hidden.

use std::any::type_name;
use std::fmt::Write as _;

use figment::{Figment, Source};

use super::{Config, ENV_PREFIX};

/// Column of the comments, unless a value is longer.
const COMMENT_AT: usize = 48;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File(String),
    Environment(String),
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Where the value of a setting comes from.
fn origin(figment: &Figment, setting: &str) -> Origin {
    let Some(metadata) = figment.find_metadata(setting) else { return Origin::Default };
    match &metadata.source {
        Some(Source::File(path)) => Origin::File(path.display().to_string()),
        // What was serialized has the name of its type: the defaults, or flags.
        _ if metadata.name.contains(type_name::<Config>()) => Origin::Default,
        Some(Source::Code(_)) => Origin::Flag(format!("--{}", setting.replace('_', "-"))),
        _ => Origin::Environment(format!("{ENV_PREFIX}{}", setting.to_uppercase())),
    }
}

/// What is in force, a line for each setting; what is not set is a comment.
pub(super) fn to_toml(config: &Config, figment: &Figment) -> String {
    let printable = config.printable();
    let all = serde_json::to_value(&printable).expect("settings are plain values");
    let set = toml::Value::try_from(&printable).expect("settings are plain values");
    let names = all.as_object().expect("settings have names").keys();
    let mut text = String::new();
    for name in names.filter(|name| *name != super::FILE_ONLY) {
        let line = match set.get(name) {
            Some(value) => format!("{name} = {value}"),
            None => format!("# {name} is not set"),
        };
        let origin = origin(figment, name);
        writeln!(text, "{line:<COMMENT_AT$} # {origin}").expect("a string takes everything");
    }
    for token in set.get(super::FILE_ONLY).and_then(toml::Value::as_array).into_iter().flatten() {
        text.push_str("\n[[tokens]]\n");
        for (name, value) in token.as_table().into_iter().flatten() {
            writeln!(text, "{name} = {value}").expect("a string takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is printed, put into a file, is the same configuration; and each value says where it
    /// comes from. The hash of a token is not shown.
    #[test]
    fn what_is_printed_can_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.toml");
        let text = "cache_mib = 3\ngrace_s = 3\nlisten = \"127.0.0.1:1\"\nreflection = false\n";
        std::fs::write(&file, text).unwrap();
        let flags = json!({ "data_dir": "it's \"here\"", "cache_mib": 5 });
        let (defaults, given) = (Config::default(), Some(file.as_path()));
        let printed = Config::explain(&defaults, given, &flags).unwrap();
        let line = |name: &str| {
            let line = printed.lines().find(|line| line.split(' ').next() == Some(name));
            line.unwrap_or_else(|| panic!("{name} is not in\n{printed}"))
        };
        assert!(line("cache_mib").ends_with(" # flag --cache-mib"), "{printed}");
        assert!(line("grace_s").ends_with(&format!(" # file {}", file.display())), "{printed}");
        assert!(line("streams_max").ends_with(" # default"), "{printed}");
        assert!(printed.contains("# metrics_listen is not set"), "{printed}");
        let again = dir.path().join("printed.toml");
        std::fs::write(&again, &printed).unwrap();
        let first = Config::load(&defaults, given, &flags).unwrap();
        assert_eq!(Config::load(&defaults, Some(&again), &json!({})).unwrap(), first);

        let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        let tokens = format!("[[tokens]]\nsha256 = \"{hash}\"\nsubject = \"me\"\nread = [\"a\"]\n");
        std::fs::write(&file, text.to_owned() + &tokens).unwrap();
        let printed = Config::explain(&defaults, given, &flags).unwrap();
        assert!(printed.contains("[[tokens]]\n") && printed.contains("subject = \"me\""));
        assert!(!printed.contains(hash) && printed.contains("(hidden)"), "{printed}");
    }
}
