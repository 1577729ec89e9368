//! The progress of what takes long, on standard error: one line that changes on a terminal, a line per step
//! elsewhere.

use std::io::{IsTerminal, Write};

use control::fetch::FetchProgress;

#[derive(Debug, Default)]
pub(crate) struct Progress {
    step: String,
    told: Option<u32>,
}

impl Progress {
    pub(crate) fn show(&mut self, progress: FetchProgress) {
        match progress {
            FetchProgress::Step(step) => self.step(&step),
            FetchProgress::Fraction(fraction) => self.percent((fraction * 100.0) as u32),
        }
    }

    /// A step begins.
    pub(crate) fn step(&mut self, step: &str) {
        self.end();
        if std::io::stderr().is_terminal() {
            self.draw(&format!("{step} …"));
        } else {
            crate::say::line(&format!("roof: {step}"));
        }
        self.step = step.into();
        self.told = None;
    }

    /// So much of the step's whole is done.
    pub(crate) fn part(&mut self, done: u64, all: u64) {
        self.percent((u128::from(done) * 100 / u128::from(all.max(1))) as u32);
    }

    fn percent(&mut self, percent: u32) {
        if self.told != Some(percent) && std::io::stderr().is_terminal() {
            self.told = Some(percent);
            self.draw(&format!("{} … {percent} %", self.step));
        }
    }

    /// Leaves the line as it is and goes to the next.
    pub(crate) fn end(&mut self) {
        if !self.step.is_empty() && std::io::stderr().is_terminal() {
            crate::say::line("");
        }
        self.step.clear();
    }

    fn draw(&self, text: &str) {
        // A progress line that cannot be drawn is not missed.
        let _ = write!(std::io::stderr().lock(), "\r\x1b[Kroof: {text}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
