//! `cargo xtask posix DIR`: what POSIX says of files and directories, checked in a directory, in the
//! manner of pjdfstest. The boot suite runs it on the host and, as the same program, in a guest on a
//! share.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};

// Linux, asm-generic/errno-base.h and errno.h.
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
const ENAMETOOLONG: i32 = 36;
const ENOTEMPTY: i32 = 39;
const ELOOP: i32 = 40;

type Check = fn(&Path) -> Result<()>;

const CHECKS: &[(&str, Check)] = &[
    ("create", create),
    ("mkdir and rmdir", folders),
    ("rename of files", rename_files),
    ("rename of directories", rename_folders),
    ("hard links", hard_links),
    ("symbolic links", symbolic_links),
    ("unlinked while open", unlinked_open),
    ("modes", modes),
    ("times", times),
    ("sizes and holes", sizes),
    ("append", append),
    ("long names and paths", long_names),
    ("many entries", many_entries),
    ("removed while listed", removed_while_listed),
    ("pipes", pipes),
    ("the current directory", renamed_below_itself),
];

/// Runs all checks, each in a directory of its own; fails if one does.
pub(crate) fn run(folder: &Path) -> Result<()> {
    let mut failed = 0;
    for (number, (name, check)) in CHECKS.iter().enumerate() {
        let place = folder.join(format!("check{number}"));
        fs::create_dir(&place).with_context(|| place.display().to_string())?;
        match check(&place) {
            Ok(()) => println!("posix: {name} ... ok"),
            Err(error) => {
                failed += 1;
                println!("posix: {name} ... FAILED: {error:#}");
            }
        }
        fs::remove_dir_all(&place).with_context(|| format!("cannot tidy up {name}"))?;
    }
    ensure!(failed == 0, "{failed} of {} checks failed", CHECKS.len());
    println!("posix: {} checks passed", CHECKS.len());
    Ok(())
}

/// An operation shall fail with this error.
fn fails<T>(what: &str, result: io::Result<T>, error: i32) -> Result<()> {
    match result {
        Ok(_) => bail!("{what} succeeded"),
        Err(found) if found.raw_os_error() == Some(error) => Ok(()),
        Err(found) => bail!("{what}: {found}, not error {error}"),
    }
}

fn write(path: &Path, text: &str) -> Result<PathBuf> {
    fs::write(path, text).with_context(|| path.display().to_string())?;
    Ok(path.into())
}

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::symlink_metadata(path)?.mode() & 0o7777)
}

fn create(at: &Path) -> Result<()> {
    let file = write(&at.join("file"), "text")?;
    fails("O_EXCL of a file", File::create_new(&file), EEXIST)?;
    fails("O_EXCL of a directory", File::create_new(at), EEXIST)?;
    symlink("nowhere", at.join("link"))?;
    fails("O_EXCL of a link", File::create_new(at.join("link")), EEXIST)?;
    fails("opening what is not there", File::open(at.join("none")), ENOENT)?;
    fails("a file below a file", File::create(file.join("x")), ENOTDIR)?;
    fails("writing to a directory", OpenOptions::new().write(true).open(at), EISDIR)?;
    fails("a file in no directory", File::create(at.join("none/x")), ENOENT)?;
    File::create(at.join("link"))?.write_all(b"through")?;
    ensure!(fs::read(at.join("nowhere"))? == b"through", "a link's target is made");
    ensure!(File::create(&file)?.metadata()?.len() == 0, "O_TRUNC");
    Ok(())
}

fn folders(at: &Path) -> Result<()> {
    let folder = at.join("folder");
    fs::create_dir(&folder)?;
    fails("mkdir of what is there", fs::create_dir(&folder), EEXIST)?;
    ensure!(fs::metadata(at)?.nlink() == 3 || fs::metadata(at)?.nlink() == 1, "links of a parent");
    write(&folder.join("x"), "")?;
    fails("rmdir of what is full", fs::remove_dir(&folder), ENOTEMPTY)?;
    fails("rmdir of a file", fs::remove_dir(folder.join("x")), ENOTDIR)?;
    fails("unlink of a directory", fs::remove_file(&folder), EISDIR)?;
    fails("rmdir of .", fs::remove_dir(folder.join(".")), EINVAL)?;
    fs::remove_file(folder.join("x"))?;
    fs::remove_dir(&folder)?;
    fails("rmdir of what is gone", fs::remove_dir(&folder), ENOENT)
}

fn rename_files(at: &Path) -> Result<()> {
    let (a, b) = (write(&at.join("a"), "a")?, write(&at.join("b"), "b")?);
    let inode = fs::metadata(&a)?.ino();
    let old = File::open(&b)?;
    fs::rename(&a, &b)?;
    ensure!(fs::metadata(&b)?.ino() == inode, "the file keeps its inode");
    ensure!(!a.exists() && fs::read(&b)? == b"a", "it has the new name only");
    ensure!(old.metadata()?.nlink() == 0, "what was replaced has no name");
    fs::rename(&b, &b)?;
    fails("rename of what is not there", fs::rename(&a, &b), ENOENT)?;
    fs::create_dir(at.join("folder"))?;
    fails("a file over a directory", fs::rename(&b, at.join("folder")), EISDIR)?;
    fails("a file below a file", fs::rename(&b, b.join("x")), ENOTDIR)?;
    fs::rename(&b, at.join("folder/c"))?;
    ensure!(fs::read(at.join("folder/c"))? == b"a", "into another directory");
    fs::hard_link(at.join("folder/c"), &a)?;
    fs::rename(&a, at.join("folder/c"))?;
    ensure!(a.exists(), "two names of one file: nothing happens");
    Ok(())
}

fn rename_folders(at: &Path) -> Result<()> {
    let (a, b) = (at.join("a"), at.join("b"));
    fs::create_dir(&a)?;
    fs::create_dir_all(b.join("inner"))?;
    fails("over what is full", fs::rename(&a, &b), ENOTEMPTY)?;
    fails("into itself", fs::rename(&b, b.join("inner/x")), EINVAL)?;
    let file = write(&at.join("file"), "")?;
    fails("a directory over a file", fs::rename(&a, &file), ENOTDIR)?;
    fs::rename(b.join("inner"), &a)?;
    fs::rename(&a, b.join("moved"))?;
    write(&b.join("moved/x"), "deep")?;
    fs::rename(&b, &a)?;
    ensure!(fs::read(a.join("moved/x"))? == b"deep" && !b.exists(), "what is in it moves along");
    Ok(())
}

fn hard_links(at: &Path) -> Result<()> {
    let (a, b) = (write(&at.join("a"), "one")?, at.join("b"));
    fs::hard_link(&a, &b)?;
    ensure!(fs::metadata(&a)?.ino() == fs::metadata(&b)?.ino(), "one inode");
    ensure!(fs::metadata(&a)?.nlink() == 2, "two names");
    OpenOptions::new().append(true).open(&b)?.write_all(b"two")?;
    ensure!(fs::read(&a)? == b"onetwo", "what is written through one is read through the other");
    fails("over a name", fs::hard_link(&a, &b), EEXIST)?;
    fails("of a directory", fs::hard_link(at, at.join("c")), EPERM)?;
    fails("of nothing", fs::hard_link(at.join("none"), at.join("c")), ENOENT)?;
    fs::remove_file(&a)?;
    ensure!(fs::metadata(&b)?.nlink() == 1 && fs::read(&b)? == b"onetwo", "one name is left");
    Ok(())
}

fn symbolic_links(at: &Path) -> Result<()> {
    let target = "x".repeat(1000);
    symlink(&target, at.join("long"))?;
    ensure!(fs::read_link(at.join("long"))?.as_os_str() == target.as_str(), "a long target");
    ensure!(
        fs::symlink_metadata(at.join("long"))?.len() == 1000,
        "its size is the target's length"
    );
    symlink("b", at.join("a"))?;
    symlink("a", at.join("b"))?;
    fails("a loop", File::open(at.join("a")), ELOOP)?;
    fails("over a name", symlink("x", at.join("a")), EEXIST)?;
    let file = write(&at.join("file"), "text")?;
    symlink(&file, at.join("absolute"))?;
    symlink("../file", at.join("upwards"))?;
    ensure!(fs::read(at.join("absolute"))? == b"text", "an absolute one");
    fails("one that leads nowhere", fs::read(at.join("upwards")), ENOENT)?;
    fs::remove_file(at.join("absolute"))?;
    ensure!(file.exists(), "removing a link leaves its target");
    Ok(())
}

fn unlinked_open(at: &Path) -> Result<()> {
    let path = at.join("file");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.write_all(b"before")?;
    fs::remove_file(&path)?;
    file.write_all(b" and after")?;
    file.seek(SeekFrom::Start(0))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    ensure!(text == "before and after", "{text}");
    let status = file.metadata()?;
    ensure!((status.nlink(), status.len()) == (0, 16), "no names, 16 bytes");
    file.set_len(3)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    ensure!(file.metadata()?.len() == 3, "it can still be cut");
    write(&path, "another")?;
    ensure!(fs::metadata(&path)?.ino() != file.metadata()?.ino(), "another file of that name");
    Ok(())
}

fn modes(at: &Path) -> Result<()> {
    let file = write(&at.join("file"), "")?;
    for bits in [0o600, 0o444, 0o000, 0o777, 0o644] {
        fs::set_permissions(&file, Permissions::from_mode(bits))?;
        ensure!(mode(&file)? == bits, "mode {bits:o}");
    }
    let folder = at.join("folder");
    fs::create_dir(&folder)?;
    for bits in [0o700, 0o1777, 0o2755] {
        fs::set_permissions(&folder, Permissions::from_mode(bits))?;
        ensure!(mode(&folder)? == bits, "mode {bits:o} of a directory");
    }
    let before = fs::metadata(&file)?;
    std::os::unix::fs::chown(&file, Some(before.uid()), Some(before.gid()))?;
    let after = fs::metadata(&file)?;
    ensure!((before.uid(), before.gid()) == (after.uid(), after.gid()), "its own owner");
    Ok(())
}

fn times(at: &Path) -> Result<()> {
    let path = write(&at.join("file"), "x")?;
    let file = OpenOptions::new().write(true).open(&path)?;
    let (accessed, modified) = (Duration::new(1_111_111_111, 5), Duration::new(999_999_999, 7));
    let epoch = SystemTime::UNIX_EPOCH;
    file.set_times(FileTimes::new().set_accessed(epoch + accessed).set_modified(epoch + modified))?;
    let status = fs::metadata(&path)?;
    ensure!(
        (status.mtime(), status.mtime_nsec()) == (999_999_999, 7),
        "the time of the last write"
    );
    ensure!((status.atime(), status.atime_nsec()) == (1_111_111_111, 5), "and of the last read");
    let changed = status.ctime();
    file.write_at(b"y", 0)?;
    drop(file);
    let status = fs::metadata(&path)?;
    ensure!(status.mtime() > 1_700_000_000 && status.ctime() >= changed, "writing renews it");
    let before =
        fs::metadata(at)?.mtime_nsec() as i128 + fs::metadata(at)?.mtime() as i128 * 1_000_000_000;
    std::thread::sleep(Duration::from_millis(20));
    write(&at.join("more"), "")?;
    let after =
        fs::metadata(at)?.mtime_nsec() as i128 + fs::metadata(at)?.mtime() as i128 * 1_000_000_000;
    ensure!(after > before, "a new name renews its directory's");
    Ok(())
}

fn sizes(at: &Path) -> Result<()> {
    let path = at.join("file");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.write_all_at(b"end", 5 << 20)?;
    ensure!(file.metadata()?.len() == (5 << 20) + 3, "the size counts the hole");
    let mut bytes = [1; 16];
    file.read_exact_at(&mut bytes, 4096)?;
    ensure!(bytes == [0; 16], "a hole reads as zeroes");
    file.set_len(2)?;
    file.set_len(4096)?;
    file.read_exact_at(&mut bytes, 2)?;
    ensure!(bytes == [0; 16], "what was cut off does not come back");
    ensure!(file.read_at(&mut bytes, 9999)? == 0, "nothing behind the end");
    file.sync_all()?;
    let large: Vec<u8> = (0..3_000_001_u32).map(|n| (n >> 3) as u8).collect();
    fs::write(&path, &large)?;
    ensure!(fs::read(&path)? == large, "three million bytes");
    Ok(())
}

fn append(at: &Path) -> Result<()> {
    let path = write(&at.join("file"), "a")?;
    let open = || OpenOptions::new().append(true).open(&path);
    let (mut one, mut two) = (open()?, open()?);
    one.write_all(b"b")?;
    two.write_all(b"c")?;
    one.write_all(b"d")?;
    ensure!(fs::read(&path)? == b"abcd", "each goes to the end");
    Ok(())
}

fn long_names(at: &Path) -> Result<()> {
    let name = "n".repeat(255);
    write(&at.join(&name), "x")?;
    ensure!(fs::read(at.join(&name))? == b"x", "255 bytes");
    fails("256 bytes", File::create(at.join(format!("{name}n"))), ENAMETOOLONG)?;
    let odd = "sp ace\n\t\"quo'te\\ \u{fc}\u{1f600}";
    write(&at.join(odd), "odd")?;
    let listed = fs::read_dir(at)?.flatten().any(|entry| entry.file_name() == odd);
    ensure!(listed && fs::read(at.join(odd))? == b"odd", "any bytes but / and NUL");
    let mut deep = at.to_path_buf();
    for _ in 0..30 {
        deep.push("d".repeat(100));
        fs::create_dir(&deep)?;
    }
    write(&deep.join("x"), "deep")?;
    ensure!(fs::read(deep.join("x"))? == b"deep", "a path of three thousand bytes");
    Ok(())
}

fn many_entries(at: &Path) -> Result<()> {
    for number in 0..1500 {
        write(&at.join(format!("entry{number}")), "")?;
    }
    let mut names: Vec<_> = fs::read_dir(at)?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    names.dedup();
    ensure!(names.len() == 1500, "{} names of 1500", names.len());
    Ok(())
}

fn removed_while_listed(at: &Path) -> Result<()> {
    for number in 0..600 {
        write(&at.join(format!("entry{number}")), "")?;
    }
    // POSIX leaves open whether a removed name is listed, not whether others are.
    let mut seen = 0;
    for entry in fs::read_dir(at)? {
        fs::remove_file(entry?.path())?;
        seen += 1;
    }
    ensure!(seen == 600 && fs::read_dir(at)?.next().is_none(), "{seen} of 600");
    Ok(())
}

fn pipes(at: &Path) -> Result<()> {
    let path = at.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status()?;
    ensure!(made.success(), "mkfifo");
    let writer = path.clone();
    let thread = std::thread::spawn(move || fs::write(writer, b"through the pipe"));
    ensure!(fs::read(&path)? == b"through the pipe", "what goes in comes out");
    thread.join().expect("it does not panic")?;
    Ok(())
}

fn renamed_below_itself(at: &Path) -> Result<()> {
    let (here, there) = (at.join("here"), at.join("there"));
    fs::create_dir(&here)?;
    let folder = File::open(&here)?;
    fs::rename(&here, &there)?;
    write(&there.join("x"), "")?;
    ensure!(folder.metadata()?.ino() == fs::metadata(&there)?.ino(), "it is where it went");
    fs::remove_dir_all(&there)?;
    fails("a file in what is gone", File::create(there.join("x")), ENOENT)
}
