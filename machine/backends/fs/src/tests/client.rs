//! A FUSE client: requests made of values, answers taken apart.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use tempfile::TempDir;

use crate::wire::{Args, Out, ROOT, opcode};
use crate::{Access, Buffers, Served, Server, ShareConfig};

const ROOM: usize = 16 + (1 << 20);

/// An answer of bytes, or the host's error.
pub(super) type Answer = Result<Vec<u8>, Errno>;

/// What LOOKUP and its like tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) node: u64,
    pub(super) attributes: Attributes,
}

/// The interesting ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: u64,
}

/// One entry of a directory: name, type, and the node if one was told.
pub(super) type Listed = (String, u32, u64);

#[derive(Debug)]
pub(super) struct Client {
    pub(super) folder: TempDir,
    pub(super) server: Server,
    pub(super) unique: u64,
    /// Who asks.
    pub(super) ids: (u32, u32),
}

pub(super) fn config(path: &Path, access: Access) -> ShareConfig {
    ShareConfig {
        path: path.into(),
        access,
        fresh_for: Duration::from_secs(1),
        locks: true,
        most_open: 4096,
    }
}

impl Client {
    pub(super) fn new(access: Access) -> Self {
        Self::with(access, |_| {})
    }

    pub(super) fn with(access: Access, change: impl FnOnce(&mut ShareConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut config = config(folder.path(), access);
        change(&mut config);
        let server = Server::open(&config).expect("it can be shared");
        let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let mut client = Self { folder, server, unique: 1, ids };
        let answer = client.ask(opcode::INIT, 0, init(7, 38)).expect("it speaks 7.38");
        assert_eq!(answer.len(), 64);
        client
    }

    /// A path of the share on the host.
    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write_host(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("a temporary directory takes files");
    }

    pub(super) fn request(&mut self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        self.unique += 2;
        let head = Out::default().u32((40 + body.len()) as u32).u32(opcode).u64(self.unique);
        let head = head.u64(node).u32(self.ids.0).u32(self.ids.1).u32(1).u32(0);
        head.bytes(body).0
    }

    /// Asks, and waits for what comes later.
    pub(super) fn ask(&mut self, opcode: u32, node: u64, body: Out) -> Answer {
        let request = self.request(opcode, node, &body.0);
        let mut buffers = Buffers::new(request, ROOM);
        let answer = match self.server.serve(&mut buffers) {
            Served::Answered => buffers.answer,
            Served::Silent => return Ok(Vec::new()),
            Served::Later(mut task) => (0..2000)
                .find_map(|_| {
                    let answer = task();
                    if answer.is_none() {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    answer
                })
                .expect("it comes within ten seconds"),
        };
        self.open_answer(&answer)
    }

    pub(super) fn open_answer(&self, answer: &[u8]) -> Answer {
        let mut args = Args(answer);
        let (length, error) = (args.u32().expect("a head"), args.u32().expect("a head") as i32);
        assert_eq!(length as usize, answer.len());
        assert_eq!(args.u64(), Ok(self.unique));
        match error {
            0 => Ok(args.0.to_vec()),
            _ => {
                assert!(error < 0 && args.0.is_empty());
                Err(Errno::from_raw_os_error(-error))
            }
        }
    }

    pub(super) fn lookup(&mut self, parent: u64, name: &str) -> Result<Entry, Errno> {
        let bytes = self.ask(opcode::LOOKUP, parent, named(Out::default(), name))?;
        // Node 0: that there is nothing, to be remembered for a while.
        Some(entry(&bytes)).filter(|entry| entry.node != 0).ok_or(Errno::NOENT)
    }

    /// Looks a path up, from the root.
    pub(super) fn walk(&mut self, path: &str) -> Result<Entry, Errno> {
        let mut found = None;
        let mut node = ROOT;
        for name in path.split('/') {
            let entry = self.lookup(node, name)?;
            (node, found) = (entry.node, Some(entry));
        }
        found.ok_or(Errno::NOENT)
    }

    pub(super) fn stat(&mut self, node: u64) -> Result<Attributes, Errno> {
        let bytes = self.ask(opcode::GETATTR, node, Out::default().zeroes(16))?;
        Ok(attributes(&bytes[16..]))
    }

    pub(super) fn open(&mut self, node: u64, flags: i32) -> Result<u64, Errno> {
        let bytes = self.ask(opcode::OPEN, node, Out::default().u32(flags as u32).u32(0))?;
        Args(&bytes).u64()
    }

    pub(super) fn create(
        &mut self,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
    ) -> Result<(Entry, u64), Errno> {
        let body = Out::default().u32((flags | libc::O_CREAT) as u32).u32(mode).u32(0).u32(0);
        let bytes = self.ask(opcode::CREATE, parent, named(body, name))?;
        Ok((entry(&bytes), Args(&bytes[128..]).u64()?))
    }

    pub(super) fn read(&mut self, node: u64, handle: u64, at: u64, count: u32) -> Answer {
        let body = Out::default().u64(handle).u64(at).u32(count).zeroes(20);
        self.ask(opcode::READ, node, body)
    }

    pub(super) fn write(
        &mut self,
        node: u64,
        handle: u64,
        at: u64,
        bytes: &[u8],
    ) -> Result<u32, Errno> {
        let body = Out::default().u64(handle).u64(at).u32(bytes.len() as u32).zeroes(20);
        let answer = self.ask(opcode::WRITE, node, body.bytes(bytes))?;
        Args(&answer).u32()
    }

    pub(super) fn release(&mut self, node: u64, handle: u64) {
        let body = Out::default().u64(handle).zeroes(16);
        self.ask(opcode::RELEASE, node, body).expect("a handle can be released");
    }

    pub(super) fn mkdir(&mut self, parent: u64, name: &str, mode: u32) -> Result<Entry, Errno> {
        let body = Out::default().u32(mode).u32(0);
        self.ask(opcode::MKDIR, parent, named(body, name)).map(|bytes| entry(&bytes))
    }

    pub(super) fn mknod(&mut self, parent: u64, name: &str, mode: u32) -> Result<Entry, Errno> {
        let body = Out::default().u32(mode).u32(0x103).u32(0).u32(0);
        self.ask(opcode::MKNOD, parent, named(body, name)).map(|bytes| entry(&bytes))
    }

    pub(super) fn symlink(
        &mut self,
        parent: u64,
        name: &str,
        target: &str,
    ) -> Result<Entry, Errno> {
        let body = named(named(Out::default(), name), target);
        self.ask(opcode::SYMLINK, parent, body).map(|bytes| entry(&bytes))
    }

    pub(super) fn unlink(&mut self, parent: u64, name: &str) -> Result<(), Errno> {
        self.ask(opcode::UNLINK, parent, named(Out::default(), name)).map(drop)
    }

    pub(super) fn rmdir(&mut self, parent: u64, name: &str) -> Result<(), Errno> {
        self.ask(opcode::RMDIR, parent, named(Out::default(), name)).map(drop)
    }

    pub(super) fn rename(
        &mut self,
        (from, old): (u64, &str),
        (to, new): (u64, &str),
        flags: u32,
    ) -> Result<(), Errno> {
        let body = Out::default().u64(to).u32(flags).u32(0);
        self.ask(opcode::RENAME2, from, named(named(body, old), new)).map(drop)
    }

    pub(super) fn link(&mut self, node: u64, parent: u64, name: &str) -> Result<Entry, Errno> {
        let body = named(Out::default().u64(node), name);
        self.ask(opcode::LINK, parent, body).map(|bytes| entry(&bytes))
    }

    pub(super) fn forget(&mut self, node: u64, count: u64) {
        let answer = self.ask(opcode::FORGET, node, Out::default().u64(count));
        assert_eq!(answer, Ok(Vec::new()));
    }

    /// SETATTR of mode, owner and group, size, times; what is `None` stays.
    pub(super) fn set(&mut self, node: u64, change: &Setting) -> Result<Attributes, Errno> {
        let bits = [
            change.mode.is_some(),
            change.uid.is_some(),
            change.gid.is_some(),
            change.size.is_some(),
            change.times.is_some(),
            change.times.is_some(),
        ];
        let valid = (0..).zip(bits).map(|(bit, set)| u32::from(set) << bit).sum();
        let (accessed, modified) = change.times.unwrap_or_default();
        let body = Out::default().u32(valid).u32(0).u64(0).u64(change.size.unwrap_or(0)).u64(0);
        let body = body.u64(accessed).u64(modified).u64(0).zeroes(12);
        let body = body.u32(change.mode.unwrap_or(0)).u32(0);
        let body = body.u32(change.uid.unwrap_or(0)).u32(change.gid.unwrap_or(0)).u32(0);
        let bytes = self.ask(opcode::SETATTR, node, body)?;
        Ok(attributes(&bytes[16..]))
    }

    /// A directory's entries, read in answers of `size` bytes.
    pub(super) fn list(&mut self, node: u64, size: u32, plus: bool) -> Result<Vec<Listed>, Errno> {
        let opened = self.ask(opcode::OPENDIR, node, Out::default().zeroes(8))?;
        let handle = Args(&opened).u64()?;
        let opcode = if plus { opcode::READDIRPLUS } else { opcode::READDIR };
        let (mut found, mut from) = (Vec::new(), 0);
        loop {
            let body = Out::default().u64(handle).u64(from).u32(size).zeroes(20);
            let bytes = self.ask(opcode, node, body)?;
            if bytes.is_empty() {
                break;
            }
            assert!(bytes.len() <= size as usize);
            let mut args = Args(&bytes);
            while !args.0.is_empty() {
                let told = if plus { entry(args.take(128)?).node } else { 0 };
                let (_inode, next) = (args.u64()?, args.u64()?);
                let (length, kind) = (args.u32()? as usize, args.u32()?);
                let name = String::from_utf8_lossy(args.take(length)?).into_owned();
                args.take(length.next_multiple_of(8) - length)?;
                found.push((name, kind, told));
                from = next;
            }
        }
        self.ask(opcode::RELEASEDIR, node, Out::default().u64(handle).zeroes(16))?;
        Ok(found)
    }
}

/// What SETATTR shall change.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Setting {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) times: Option<(u64, u64)>,
}

/// INIT with everything offered.
pub(super) fn init(major: u32, minor: u32) -> Out {
    Out::default().u32(major).u32(minor).u32(1 << 20).u32(u32::MAX).u32(u32::MAX).zeroes(44)
}

pub(super) fn named(out: Out, name: &str) -> Out {
    out.bytes(CString::new(name).expect("names have no NUL").as_bytes_with_nul())
}

pub(super) fn entry(bytes: &[u8]) -> Entry {
    let node = Args(bytes).u64().expect("an entry");
    Entry { node, attributes: attributes(&bytes[40..]) }
}

fn attributes(bytes: &[u8]) -> Attributes {
    let mut args = Args(bytes);
    let mut long = || args.u64().expect("attributes");
    let (inode, size, _blocks) = (long(), long(), long());
    let (_accessed, modified, _changed) = (long(), long(), long());
    args.take(12).expect("attributes");
    let mut word = || args.u32().expect("attributes");
    Attributes { inode, size, mode: word(), links: word(), uid: word(), gid: word(), modified }
}

/// The bytes of a path, for targets of links.
pub(super) fn text(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}
