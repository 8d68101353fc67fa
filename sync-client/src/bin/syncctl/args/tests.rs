//! What the command line takes, and what it refuses.

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn times_are_read() {
    assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
    assert!(duration("").is_err() && duration("2h").is_err() && duration("-1").is_err());
    assert!(duration("99999999999999999m").is_err());
}

#[test]
fn ages_are_read() {
    assert_eq!(age("0"), Ok(Duration::ZERO));
    assert_eq!(age("8640000"), Ok(Duration::from_secs(100 * DAY_S)));
    assert_eq!(age("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(age("12h"), Ok(Duration::from_secs(12 * HOUR_S)));
    assert_eq!(age("30d"), Ok(Duration::from_secs(30 * DAY_S)));
    assert!(age("").is_err() && age("d").is_err() && age("-1h").is_err());
    assert!(age("99999999999999999d").is_err());
}

#[test]
fn a_put_needs_exactly_one_content() {
    let parse = |args: &[&str]| Cli::try_parse_from([&["syncctl", "put", "c", "k"], args].concat());
    assert!(parse(&["v"]).is_ok() && parse(&["-1.5"]).is_ok());
    assert!(parse(&["--", "--stdn"]).is_ok());
    assert!(parse(&["--stdn"]).is_err(), "a misspelt option is not stored");
    assert!(parse(&["--stdin"]).is_ok());
    assert!(parse(&[]).is_err());
    assert!(parse(&["v", "--stdin"]).is_err());
    assert!(parse(&["v", "--if-absent", "--if-version", "1"]).is_err());
}
