//! `roof doctor`: a line for everything a VM needs, and what to do about it.

use std::io::IsTerminal;

use control::doctor::{Check, State, check_host};

pub(crate) fn doctor() -> u8 {
    let mut checks = check_host();
    checks.push(terminal());
    for check in &checks {
        let state = match check.state {
            State::Ok => " OK ",
            State::Warn => "WARN",
            State::Fail => "FAIL",
        };
        println!("[{state}] {}: {}", check.name, check.text);
        if let Some(fix) = &check.fix {
            println!("       {fix}");
        }
    }
    u8::from(checks.iter().any(|check| check.state == State::Fail))
}

fn terminal() -> Check {
    let both = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let kind = std::env::var("TERM").unwrap_or_default();
    let (state, text, fix) = match (both, kind.as_str()) {
        (false, _) => (State::Ok, "not a terminal; commands get pipes".to_owned(), None),
        (true, "" | "dumb") => (
            State::Warn,
            "TERM is not set; programs in the guest draw plainly".to_owned(),
            Some("set TERM, for example TERM=xterm-256color".to_owned()),
        ),
        (true, kind) => (State::Ok, format!("interactive, TERM={kind}"), None),
    };
    Check { name: "terminal", state, text, fix }
}
