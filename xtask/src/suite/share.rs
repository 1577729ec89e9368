//! The host's user space in the guest, and shared folders: everyday commands do as on the host,
//! files go both ways with their owners, and what is not shared stays out of reach.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Output, Report, Verdict, run, setup};

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);
/// Somebody who is not root.
const USER: u32 = 1234;

/// Commands whose output and status are the same in the guest, `$D` being a directory of files.
pub(super) const EVERYDAY: &[(&str, &str)] = &[
    ("ls", "ls -la /usr/bin /usr/lib $D"),
    ("cat", "cat /etc/passwd /etc/group /nonexistent"),
    ("stat", "stat -c '%n %s %u %g %a %h %Y' /etc/* && stat -c '%n %i' /usr/bin/*"),
    ("find", "find $D /etc -newer $D/old -printf '%p %s\\n' | sort"),
    ("grep", "grep -rn a $D | sort; grep -q nothing-of-the-kind /etc/passwd"),
    ("sed", "sed -n '/b/s/a/x/gp' $D/text"),
    ("awk", "awk -F: '{ n += NF } END { print n, NR }' /etc/passwd"),
    ("sort", "sort -r $D/text | uniq -c | head -5"),
    ("tar", "tar -C $D -cf - . | sha256sum"),
    ("gzip", "gzip -9 -n < $D/text | od -An -tx1 | tail -3"),
    ("sha256sum", "sha256sum /usr/bin/[a-d]*"),
    ("diff", "diff -u $D/text $D/old"),
    (
        "python3",
        "python3 -c 'import sys, json; print(json.dumps(sys.path), 2 ** 100); sys.exit(3)'",
    ),
    (
        "perl",
        "perl -e 'my %n; $n{$_ % 7}++ for 1..1000; print map { \"$_ $n{$_}\\n\" } sort keys %n; die \"so\\n\"'",
    ),
    ("git", "cd $D && git log --format='%an %s' && git status --short && git fsck"),
    ("make", "cd $D && make -s -f makefile all; make -f makefile fails"),
    ("cc", "cd $D && gcc -O1 -o /tmp/x.out program.c && /tmp/x.out; s=$?; rm /tmp/x.out; exit $s"),
    ("id", "id; id -un; umask; pwd; echo $HOME $PATH"),
    ("xargs", "ls /etc | xargs -n 5 echo | tail -3; seq 1 100 | xargs -P 4 -n 10 | sort -n"),
    ("pipes", "(echo one; echo two >&2; exit 5) 2>&1 | tee /dev/stderr | wc -c"),
    (
        "cp and mv",
        "cp -a $D /tmp/copy-$$ && mv /tmp/copy-$$ /tmp/moved-$$ && diff -r $D /tmp/moved-$$; s=$?; rm -r /tmp/moved-$$; exit $s",
    ),
    ("not there", "no-such-command-anywhere; echo $?; /etc; echo $?; cd /nowhere"),
];

/// The cases.
pub(crate) fn cases(report: &mut Report, roof: &Path, kernel: &Path) {
    match files() {
        Ok(folder) => everyday(report, roof, kernel, folder.path()),
        Err(error) => report.case("everyday_commands", || Err(error)),
    }
    report.case("the_root_of_the_host_is_changed_in_memory_only", || in_memory(roof, kernel));
    report.case("files_go_both_ways_with_their_owners", || both_ways(roof, kernel));
    report.case("what_the_host_changes_is_seen_in_the_guest", || changes(roof, kernel));
    report.case("locks_hold_between_host_and_guest", || locks(roof, kernel));
    for mode in ["rw", "cow"] {
        report.case(&format!("posix_holds_on_a_share_{mode}"), || posix(roof, kernel, mode));
    }
    report.case("a_read_only_share_stays_as_it_is", || read_only(roof, kernel));
    report.case("links_out_of_a_share_lead_to_the_guest_s_own_files", || links(roof, kernel));
    report.case("who_is_not_root_may_in_the_guest_what_he_may_on_the_host", || user(roof, kernel));
    report.case("a_share_that_cannot_be_is_125", || refused(roof, kernel));
    report.case("a_tree_of_100000_files_needs_few_descriptors", || large_tree(roof, kernel));
}

fn guest(roof: &Path, kernel: &Path, options: &[&str], script: &str) -> Result<Output> {
    let mut line = Command::new(roof);
    line.args(["run", "--engine", "soft", "-q"]).args(options).arg(kernel);
    run(line.args(["--", "sh", "-c", script]), "", LIMIT)
}

/// A directory that the guest has not its own at the same place, as /tmp would be.
pub(super) fn folder() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("roof-share").tempdir_in("/var/tmp")?)
}

pub(super) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("temporary directories have plain names")
}

/// What everyday commands work on.
pub(super) fn files() -> Result<tempfile::TempDir> {
    let folder = folder()?;
    let at = |name: &str| folder.path().join(name);
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    fs::write(at("old"), "old a\nold b\n")?;
    let lines: String =
        (0..500).map(|n| format!("line {} b a {}\n", n * 7919 % 500, n % 3)).collect();
    fs::write(at("text"), lines)?;
    fs::create_dir(at("inner"))?;
    fs::write(at("inner/file"), vec![7; 100_000])?;
    symlink("../text", at("inner/link"))?;
    fs::hard_link(at("text"), at("same"))?;
    fs::write(
        at("program.c"),
        "#include <stdio.h>\nint main(void) { puts(\"built\"); return 9; }\n",
    )?;
    fs::write(at("makefile"), "all: text\n\twc -l < text\nfails:\n\tfalse\n")?;
    if setup::has("git") {
        let script =
            "git init -q && git add . && git -c user.name=a -c user.email=a@b commit -qm one";
        let made = Command::new("sh").args(["-c", script]).current_dir(folder.path()).status()?;
        ensure!(made.success(), "git commit");
    }
    Ok(folder)
}

fn everyday(report: &mut Report, roof: &Path, kernel: &Path, folder: &Path) {
    for (name, script) in EVERYDAY {
        let case = format!("as_on_the_host_{}", name.replace(' ', "_"));
        report.case(&case, || {
            let script = format!("D={}; cd $D; {script}", text(folder)?);
            let host = run(Command::new("sh").args(["-c", &script]), "", LIMIT)?;
            // With a network /etc/resolv.conf would be the guest's own.
            let seen = guest(roof, kernel, &["--net", "none"], &script)?;
            let same = (&host.stdout, &host.stderr, host.status)
                == (&seen.stdout, &seen.stderr, seen.status);
            let host = (host.status, super::tail(&host.stdout), super::tail(&host.stderr));
            seen.expect(same, &format!("what the host does: {host:?}"))
        });
    }
}

fn in_memory(roof: &Path, kernel: &Path) -> Result<Verdict> {
    let folder = folder()?;
    fs::create_dir(folder.path().join("inner"))?;
    fs::write(folder.path().join("file"), "as it was")?;
    let script = format!(
        "cd {} && echo changed > file && mv inner moved && rm -r moved && touch new && ls && \
         cat file && rm -rf /usr/share/doc && test ! -e /usr/share/doc && echo gone",
        text(folder.path())?
    );
    let seen = guest(roof, kernel, &[], &script)?;
    let there = fs::read(folder.path().join("file"))? == b"as it was"
        && folder.path().join("inner").is_dir()
        && !folder.path().join("new").exists()
        && Path::new("/usr/share/doc").is_dir();
    let said = seen.stdout == "file\nnew\nchanged\ngone\n";
    seen.expect(there && said && seen.status == Some(0), "changes that the host has not")
}

fn both_ways(roof: &Path, kernel: &Path) -> Result<Verdict> {
    let folder = folder()?;
    let at = |name: &str| folder.path().join(name);
    let bytes: Vec<u8> =
        (0..5_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(at("from-host"), &bytes)?;
    let script = "cd /mnt/here && cp from-host copy && dd if=from-host of=pieces bs=7777 2>/dev/null \
                  && mkdir -m 750 folder && echo text > folder/file && chmod 640 folder/file && \
                  ln copy same && stat -c %u:%g copy";
    let share = format!("{}:/mnt/here", text(folder.path())?);
    let seen = guest(roof, kernel, &["--share", &share], script)?;
    let (uid, gid) = (fs::metadata(folder.path())?.uid(), fs::metadata(at("from-host"))?.gid());
    for name in ["copy", "pieces", "same"] {
        if fs::read(at(name))? != bytes {
            return seen.expect(false, &format!("the host's bytes in {name}"));
        }
    }
    let (file, made) = (fs::metadata(at("folder/file"))?, fs::metadata(at("folder"))?);
    let owned = [&file, &made].iter().all(|status| (status.uid(), status.gid()) == (uid, gid));
    let modes = (file.mode() & 0o7777, made.mode() & 0o7777) == (0o640, 0o750);
    let told = seen.stdout.trim() == format!("{uid}:{gid}");
    seen.expect(owned && modes && told, "files of the invoking user with their modes")
}

/// Waits for a file that the guest makes.
fn wait_for(path: &Path) -> Result<()> {
    let started = Instant::now();
    while !path.exists() {
        ensure!(started.elapsed() < LIMIT, "the guest never made {}", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn changes(roof: &Path, kernel: &Path) -> Result<Verdict> {
    let folder = folder()?;
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "old")?;
    let script = "cd /mnt/here; cat file; ls | wc -l; touch ready; \
                  for n in $(seq 1 300); do test -e more && break; sleep 0.1; done; \
                  for n in $(seq 1 300); do grep -q newer file && break; sleep 0.1; done; \
                  cat file more";
    let share = format!("{}:/mnt/here", text(folder.path())?);
    let seen = std::thread::scope(|scope| {
        let running = scope.spawn(|| guest(roof, kernel, &["--share", &share], script));
        wait_for(&at("ready"))?;
        fs::write(at("file"), "newer\n")?;
        fs::write(at("more"), "more\n")?;
        running.join().expect("it does not panic")
    })?;
    seen.expect(seen.stdout == "old1\nnewer\nmore\n", "old, then newer, and the new file")
}

fn locks(roof: &Path, kernel: &Path) -> Result<Verdict> {
    if let Err(why) = setup::need(&["flock"], &["util-linux"]) {
        return Ok(Verdict::Skipped(why));
    }
    let folder = folder()?;
    let at = |name: &str| folder.path().join(name);
    let file = File::create(at("file"))?;
    file.lock()?;
    let script = "cd /mnt/here; flock -n file echo too early; touch ready; flock file echo at last; \
                  flock file sh -c 'touch held; while test ! -e seen; do sleep 0.1; done'";
    let share = format!("{}:/mnt/here", text(folder.path())?);
    let (seen, held) = std::thread::scope(|scope| {
        let running = scope.spawn(|| guest(roof, kernel, &["--share", &share], script));
        wait_for(&at("ready"))?;
        std::thread::sleep(Duration::from_millis(300));
        file.unlock()?;
        wait_for(&at("held"))?;
        let held = file.try_lock().is_err();
        fs::write(at("seen"), "")?;
        anyhow::Ok((running.join().expect("it does not panic")?, held))
    })?;
    seen.expect(held && seen.stdout == "at last\n", "at last, and the host waits for the guest")
}

fn posix(roof: &Path, kernel: &Path, mode: &str) -> Result<Verdict> {
    let folder = folder()?;
    let own = std::env::current_exe()?;
    let mut line = Command::new(roof);
    line.args(["run", "--engine", "soft", "-q", "--share"]);
    line.arg(format!("{}:/mnt/here:{mode}", text(folder.path())?)).arg(kernel).arg("--");
    let seen = run(line.arg(own).args(["posix", "/mnt/here"]), "", LIMIT)?;
    let empty = fs::read_dir(folder.path())?.next().is_none();
    seen.expect(seen.status == Some(0) && empty, "all checks passed and tidied up")
}

fn read_only(roof: &Path, kernel: &Path) -> Result<Verdict> {
    let folder = folder()?;
    fs::write(folder.path().join("file"), "as it was\n")?;
    let script = "cd /mnt/here; cat file; echo x > file; rm file; touch new; mkdir new; \
                  mount -o remount,rw /mnt/here 2>/dev/null; echo x >> file; rm -f file; cat file";
    let share = format!("{}:/mnt/here:ro", text(folder.path())?);
    let seen = guest(roof, kernel, &["--share", &share], script)?;
    let there = fs::read(folder.path().join("file"))? == b"as it was\n";
    let alone = fs::read_dir(folder.path())?.count() == 1;
    let said = seen.stdout == "as it was\nas it was\n" && seen.stderr.contains("Read-only");
    seen.expect(there && alone && said, "a read-only file system, however it is mounted")
}

fn links(roof: &Path, kernel: &Path) -> Result<Verdict> {
    let (folder, secret) = (folder()?, folder()?);
    fs::write(secret.path().join("secret"), "not for guests")?;
    symlink(secret.path().join("secret"), folder.path().join("absolute"))?;
    let up = format!("../{}/secret", secret.path().file_name().context("a name")?.display());
    symlink(up, folder.path().join("upwards"))?;
    symlink("/etc/hostname", folder.path().join("hostname"))?;
    let script = "cd /mnt/here; cat absolute; cat upwards; cat hostname; \
                  ln -s /etc/new made; echo x > made; cat /etc/new; mknod device c 1 3; \
                  cp /bin/sh . && chmod 6755 sh && stat -c %a sh";
    let share = format!("{}:/mnt/here", text(folder.path())?);
    let seen = guest(roof, kernel, &["--root", "none", "--share", &share], script)?;
    let inside = !Path::new("/etc/new").exists() && !folder.path().join("device").exists();
    let said = seen.stdout == "oneroof\nx\n755\n";
    let mode = fs::metadata(folder.path().join("sh"))?.mode() & 0o7777;
    seen.expect(inside && said && mode == 0o755, "the guest's own host name, x and mode 755")
}

/// The kernel and `roof` where everybody can read them.
fn for_everybody(roof: &Path, kernel: &Path) -> Result<(tempfile::TempDir, PathBuf, PathBuf)> {
    let place = folder()?;
    fs::set_permissions(place.path(), Permissions::from_mode(0o755))?;
    // The package's tree: boot/vmlinuz-… with lib/modules beside.
    let tree = kernel.ancestors().nth(2).context("the kernel's package")?;
    let copied = Command::new("cp").arg("-r").arg(tree).arg(place.path().join("k")).status()?;
    let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(place.path().join("k")).status()?;
    ensure!(copied.success() && opened.success(), "the kernel can be copied");
    let (own_roof, own_kernel) =
        (place.path().join("roof"), place.path().join("k").join(kernel.strip_prefix(tree)?));
    fs::copy(roof, &own_roof)?;
    Ok((place, own_roof, own_kernel))
}

fn user(roof: &Path, kernel: &Path) -> Result<Verdict> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(Verdict::Skipped("it takes root to become somebody else".into()));
    }
    if let Err(why) = setup::need(&["setpriv", "git"], &["util-linux", "git"]) {
        return Ok(Verdict::Skipped(why));
    }
    let (_place, roof, kernel) = for_everybody(roof, kernel)?;
    let home = folder()?;
    let project = home.path().join("project");
    fs::create_dir(&project)?;
    fs::write(project.join("secret"), "root's")?;
    fs::set_permissions(project.join("secret"), Permissions::from_mode(0o600))?;
    for path in [home.path(), &project] {
        chown(path, Some(USER), Some(USER))?;
    }
    let line = |options: &[&str], script: &str| {
        let mut line = Command::new("setpriv");
        line.args(["--reuid", "1234", "--regid", "1234", "--clear-groups"]).arg(&roof);
        line.args(["run", "--engine", "soft", "-q"]).args(options).arg(&kernel);
        line.args(["--", "sh", "-c", script]).current_dir(&project).env("HOME", home.path());
        run(&mut line, "", LIMIT)
    };
    let script = "id -u; pwd; cat secret; cat /etc/shadow; echo x > file; chown 0:0 file; \
                  chown 7 file; mkdir folder; git init -q . && git status --short file; \
                  stat -c %u:%g file; touch /root/x";
    let seen = line(&[], script)?;
    let wanted = format!("0\n{}\n?? file\n{USER}:{USER}\n", project.display());
    let refused = seen.stderr.matches("ermission denied").count() >= 2
        && seen.stderr.matches("not permitted").count() == 1;
    let file = fs::metadata(project.join("file"))?;
    if seen.stdout != wanted || !refused || (file.uid(), file.gid()) != (USER, USER) {
        return seen.expect(false, "root in the guest, the invoking user on the host");
    }
    let seen =
        line(&["--as-user"], "id -u; echo y > mine; stat -c %u mine; cat secret /etc/shadow")?;
    let said = seen.stdout == format!("{USER}\n{USER}\n");
    if !said || fs::metadata(project.join("mine"))?.uid() != USER {
        return seen.expect(false, "the invoking user on both sides");
    }
    let seen = line(&["--share", "/root"], "true")?;
    seen.expect(
        seen.status == Some(125) && seen.stderr.contains("not allowed"),
        "status 125 and that /root cannot be shared",
    )
}

fn refused(roof: &Path, kernel: &Path) -> Result<Verdict> {
    let folder = folder()?;
    fs::write(folder.path().join("file"), "")?;
    let none = folder.path().join("none");
    let file = folder.path().join("file");
    for (share, why) in [
        (text(&none)?, "there is no such directory"),
        (text(&file)?, "not a directory"),
        ("/proc", "the guest has its own"),
        ("/usr:relative/../x", "there is no such directory"),
        ("/usr:/", "absolute path below /"),
    ] {
        let seen = guest(roof, kernel, &["--share", share], "true")?;
        if seen.status != Some(125) || !seen.stderr.contains(why) {
            return seen.expect(false, &format!("status 125 and `{why}` for {share}"));
        }
    }
    Ok(Verdict::Passed)
}

/// `find` and `tar` over far more files than the process may open.
fn large_tree(roof: &Path, kernel: &Path) -> Result<Verdict> {
    let folder = folder()?;
    crate::bench::files::tree(folder.path())?;
    let script = "cd /mnt/here && find . | wc -l && find . -type f -newermt 2001-01-01 | wc -l && \
                  tar --sort=name --mtime=@0 -cf - . | sha256sum && rm -r d7 && find . | wc -l";
    let mut host = Command::new("sh");
    host.args(["-c", "tar --sort=name --mtime=@0 -cf - . | sha256sum"]);
    let sum = run(host.current_dir(folder.path()), "", LIMIT)?;
    let mut line = Command::new("sh");
    line.args(["-c", "ulimit -Sn 512; ulimit -Hn 1024; exec \"$@\"", "sh"]).arg(roof);
    line.args(["run", "--engine", "soft", "-q", "--share"]);
    line.arg(format!("{}:/mnt/here", text(folder.path())?))
        .arg(kernel)
        .args(["--", "sh", "-c", script]);
    let seen = run(&mut line, "", LIMIT)?;
    let wanted = format!("100101\n100000\n{}99100\n", sum.stdout);
    seen.expect(seen.stdout == wanted && seen.status == Some(0), &wanted)
}
