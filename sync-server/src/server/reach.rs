//! Which services a connection reaches, by where it came in. Pure.

use crate::auth::methods::Rule;

/// What is served where a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Everything.
    All,
    /// Everything but `AdminService`, which is served elsewhere.
    Callers,
}

// === impl Reach ===

impl Reach {
    /// Whether a call is one that is served here. One that is not is as one that does not exist.
    pub(super) fn has(self, rule: Rule) -> bool {
        match rule {
            Rule::Keeping | Rule::Whole => self == Self::All,
            Rule::Open | Rule::Known | Rule::Own | Rule::Named => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::methods::METHODS;

    /// G11: of `AdminService` nothing is reached where callers come in, of the others everything.
    #[test]
    fn callers_reach_all_but_admin() {
        for (path, rule) in METHODS {
            assert!(Reach::All.has(*rule));
            assert_eq!(Reach::Callers.has(*rule), !path.contains("AdminService"), "{path}");
        }
    }
}
