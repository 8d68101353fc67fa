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

#[test]
fn a_client_id_is_checked_wherever_it_is_given() {
    let parse = |args: &[&str]| {
        let cli = Cli::try_parse_from([&["syncctl"], args].concat());
        cli.map(|cli| cli.connection.client_id).map_err(|refused| refused.to_string())
    };
    let (longest, longer) = ("i".repeat(ID_LEN_MAX), "i".repeat(ID_LEN_MAX + 1));
    assert_eq!(parse(&["watch", "c", "--client-id", &longest]), Ok(Some(longest.clone())));
    assert_eq!(parse(&["--client-id", "a", "watch", "c"]), Ok(Some("a".to_owned())));
    for command in ["watch", "ack"] {
        let refused = parse(&[command, "c", "--client-id", &longer]).unwrap_err();
        assert!(refused.contains("client_id has 129 bytes, the limit is 128"), "{refused}");
        let refused = parse(&[command, "c", "--client-id", ""]).unwrap_err();
        assert!(refused.contains("client_id must not be empty"), "{refused}");
    }
}
