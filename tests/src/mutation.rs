//! Deliberate faults of the code: what a test that proves something must catch. The list is
//! `simulation/mutations.json`; the program `mutate` tries them in a copy of the workspace.

use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use crate::data::workspace;

/// A fault to put into the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// What goes wrong with it, in few words.
    pub name: String,
    /// The promises that it breaks.
    pub breaks: String,
    /// The file, from the root of the workspace.
    pub file: String,
    /// Code that occurs in the file exactly once.
    pub find: String,
    /// What takes its place.
    pub replace: String,
    /// Package and test that must fail.
    pub test: (String, String),
}

/// The list, in its order.
#[must_use]
pub fn all() -> Vec<Mutation> {
    let path = workspace().join("tests/simulation/mutations.json");
    let list: Json = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    list.as_array().unwrap().iter().map(Mutation::parse).collect()
}

impl Mutation {
    fn parse(entry: &Json) -> Self {
        let field = |name: &str| {
            let said = entry[name].as_str();
            said.unwrap_or_else(|| panic!("{name} is missing in {entry}")).to_owned()
        };
        let caught_by = entry["test"].as_str().unwrap_or("sync-tests/simulation");
        let (package, test) = caught_by.split_once('/').unwrap();
        Self {
            name: field("name"),
            breaks: field("breaks"),
            file: field("file"),
            find: field("find"),
            replace: field("replace"),
            test: (package.to_owned(), test.to_owned()),
        }
    }

    /// The file's text below `root` with the fault in it. `Err`: it does not fit the code any
    /// more, which is said.
    pub fn apply(&self, root: &Path) -> Result<String, String> {
        let code = fs::read_to_string(root.join(&self.file))
            .map_err(|error| format!("{}: {}: {error}", self.name, self.file))?;
        match code.matches(&self.find).count() {
            1 => Ok(code.replacen(&self.find, &self.replace, 1)),
            count => Err(format!("{}: its code occurs {count} times in {}", self.name, self.file)),
        }
    }
}
