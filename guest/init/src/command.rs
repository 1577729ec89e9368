//! The command: started on a terminal or on three pipes, awaited by a thread that reaps everything.
//!
//! Invariant: the command leads its own session and process group, so a signal for "the command"
//! goes to `-pid`; the reaper starts after it and is the only caller of wait.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use protocol::{Job, User, WindowSize};
use rustix::fs::{Mode, OFlags, Uid};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::sys::session_leader;

/// Where the command's standard streams end on our side.
pub(crate) struct Streams {
    /// Its standard input, or the terminal.
    pub(crate) input: Option<OwnedFd>,
    /// Its standard output; `None` where the terminal carries it.
    pub(crate) output: Option<OwnedFd>,
    /// Its standard error.
    pub(crate) error: Option<OwnedFd>,
    /// The terminal's master side.
    pub(crate) terminal: Option<OwnedFd>,
}

pub(crate) struct Running {
    pub(crate) streams: Streams,
    /// Becomes readable when the command has ended; see [`Running::status`].
    pub(crate) ended: OwnedFd,
    pid: Pid,
}

/// Why the command did not start, as a shell would put it.
pub(crate) struct NotStarted {
    pub(crate) message: String,
    pub(crate) code: u8,
}

impl Running {
    /// Starts the job's command.
    pub(crate) fn start(job: &Job) -> Result<Self, NotStarted> {
        let Some((program, arguments)) = job.argv.split_first() else {
            return Err(NotStarted { message: "the job names no command".into(), code: 127 });
        };
        let mut command = Command::new(OsStr::from_bytes(program));
        command.args(arguments.iter().map(|argument| OsStr::from_bytes(argument)));
        command.env_clear();
        for variable in &job.env {
            if let Some(at) = variable.iter().position(|byte| *byte == b'=') {
                let (name, value) = (&variable[..at], &variable[at + 1..]);
                command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
            }
        }
        let cwd = Path::new(OsStr::from_bytes(&job.cwd));
        command.current_dir(if cwd.is_dir() { cwd } else { Path::new("/") });
        let streams = if job.terminal {
            on_terminal(&mut command, job.window, job.user.as_ref())
        } else {
            Ok(on_pipes(&mut command))
        };
        let streams = streams.map_err(|error| NotStarted {
            message: format!("cannot open a terminal for the command: {error}"),
            code: 126,
        })?;
        session_leader::prepare(&mut command, job.terminal, job.user.as_ref());
        let mut child = command.spawn().map_err(|error| not_started(job, &error))?;
        let streams = streams.unwrap_or_else(|| Streams {
            input: child.stdin.take().map(OwnedFd::from),
            output: child.stdout.take().map(OwnedFd::from),
            error: child.stderr.take().map(OwnedFd::from),
            terminal: None,
        });
        drop(command); // closes our copies of the terminal's slave side
        let pid = Pid::from_child(&child);
        let ended = start_reaper(pid)
            .map_err(|error| NotStarted { message: format!("cannot wait: {error}"), code: 126 })?;
        Ok(Self { streams, ended, pid })
    }

    /// Code and signal of the ended command; called once, when `ended` is readable.
    pub(crate) fn status(&self) -> (u8, u8) {
        let mut status = [0; 2];
        match rustix::io::read(&self.ended, &mut status) {
            Ok(2) => (status[0], status[1]),
            _ => (126, 0),
        }
    }

    /// Sends a signal to the command's process group.
    pub(crate) fn signal(&self, number: u8) {
        if let Some(signal) = Signal::from_named_raw(i32::from(number)) {
            // The group may be gone already; then its end is on the way.
            let _ = rustix::process::kill_process_group(self.pid, signal);
        }
    }

    /// Gives the command's terminal a new size.
    pub(crate) fn resize(&self, size: WindowSize) {
        if let Some(terminal) = &self.streams.terminal {
            // Only cosmetic if it fails.
            let _ = rustix::termios::tcsetwinsize(terminal, winsize(size));
        }
    }
}

/// Opens a terminal and puts its slave side on the command's three streams.
fn on_terminal(
    command: &mut Command,
    size: WindowSize,
    user: Option<&User>,
) -> Result<Option<Streams>, rustix::io::Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = File::from(rustix::fs::open(name.as_c_str(), flags, Mode::empty())?);
    rustix::termios::tcsetwinsize(&slave, winsize(size))?;
    if let Some(user) = user {
        // As login(1) does; a program may open its terminal by name.
        rustix::fs::fchown(&slave, Some(Uid::from_raw(user.uid)), None)?;
    }
    let again =
        |file: &File| file.as_fd().try_clone_to_owned().map_err(|_| rustix::io::Errno::MFILE);
    command
        .stdin(Stdio::from(again(&slave)?))
        .stdout(Stdio::from(again(&slave)?))
        .stderr(Stdio::from(slave));
    let input = master.try_clone().map_err(|_| rustix::io::Errno::MFILE)?;
    Ok(Some(Streams { input: Some(input), output: None, error: None, terminal: Some(master) }))
}

/// Asks for three pipes, which `spawn` makes.
fn on_pipes(command: &mut Command) -> Option<Streams> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    None
}

fn winsize(size: WindowSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// POSIX shell, 2.8.2: 127 for a command that is not there, 126 for one that cannot be executed.
fn not_started(job: &Job, error: &io::Error) -> NotStarted {
    let name = String::from_utf8_lossy(&job.argv[0]).into_owned();
    let there = name.contains('/') && Path::new(&name).exists();
    let (why, code) = match error.kind() {
        io::ErrorKind::NotFound if there => ("its interpreter is not in the guest".into(), 126),
        io::ErrorKind::NotFound if name.contains('/') => ("no such file or directory".into(), 127),
        io::ErrorKind::NotFound => ("command not found".into(), 127),
        io::ErrorKind::PermissionDenied => ("permission denied".into(), 126),
        _ => (error.to_string(), 126),
    };
    NotStarted { message: format!("{name}: {why}"), code }
}

/// Reaps every child for ever; tells the command's status over a pipe.
fn start_reaper(command: Pid) -> io::Result<OwnedFd> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut writer = Some(writer);
    std::thread::Builder::new().name("reaper".into()).spawn(move || {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if pid == command => {
                    let signal = status.terminating_signal().unwrap_or(0);
                    let code = status.exit_status().unwrap_or(128 + signal);
                    if let Some(writer) = writer.take() {
                        // The reader lives as long as the session.
                        let _ = rustix::io::write(writer, &[code as u8, signal as u8]);
                    }
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return, // ECHILD: nobody is left who could leave us a child
            }
        }
    })?;
    Ok(reader)
}
