//! A fetch's progress on standard error: one line that changes on a terminal, a line per step
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
        let alive = std::io::stderr().is_terminal();
        match progress {
            FetchProgress::Step(step) => {
                self.end();
                if alive {
                    self.draw(&format!("{step} …"));
                } else {
                    crate::say::line(&format!("roof: {step}"));
                }
                self.step = step;
                self.told = None;
            }
            FetchProgress::Fraction(fraction) if alive => {
                let percent = (fraction * 100.0) as u32;
                if self.told != Some(percent) {
                    self.told = Some(percent);
                    self.draw(&format!("{} … {percent} %", self.step));
                }
            }
            FetchProgress::Fraction(_) => {}
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
