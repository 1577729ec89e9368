//! `roof disk`: create, info, resize, check, convert.

use std::path::Path;

use anyhow::{Context, Result};
use control::disk::{self, Check, Convert, Create, Info, Resize, Size};
use serde::Serialize;

use crate::args::disk::{Disk, ImageFormat, NewSize};
use crate::progress::Progress;
use crate::say;

/// Something is wrong with a checked image.
const UNSOUND: u8 = 1;

pub(crate) fn disk(task: Disk) -> Result<u8> {
    match task {
        Disk::Create { file, size, format, backing, cluster_size } => {
            let wish = Create { format: format.into(), size, cluster_size, backing };
            let size = disk::create(&file, &wish).with_context(|| cannot("create", &file))?;
            say::line(&format!("roof: {} has {}", file.display(), bytes(size)));
            Ok(0)
        }
        Disk::Info { file, format, json } => {
            let info = disk::info(&file, format.map(ImageFormat::into));
            let info = info.with_context(|| cannot("look at", &file))?;
            if json {
                print_json(&info)?
            } else {
                print_info(&info)
            }
            Ok(0)
        }
        Disk::Resize { file, size, shrink, format, backing } => {
            let size = match size {
                NewSize::Bytes(size) => Size::Bytes(size),
                NewSize::More(more) => Size::More(more),
            };
            let wish = Resize { size, shrink, format: format.map(ImageFormat::into), backing };
            let (old, new) = disk::resize(&file, &wish).with_context(|| cannot("resize", &file))?;
            let (old, new) = (bytes(old), bytes(new));
            say::line(&format!("roof: {} had {old} and has {new}", file.display()));
            Ok(0)
        }
        Disk::Check { file, repair, format } => check(&file, repair, format),
        Disk::Convert { from, to, format, from_format, backing } => {
            let to_format = format.unwrap_or_else(|| ImageFormat::of_name(&to)).into();
            let from_format = from_format.map(ImageFormat::into);
            let wish = Convert { from: from_format, to: to_format, backing };
            let mut progress = Progress::default();
            progress.step(&format!("copying {}", from.display()));
            let size = disk::convert(&from, &to, &wish, &mut |done, all| progress.part(done, all));
            progress.end();
            let size = size.with_context(|| cannot("convert", &from))?;
            say::line(&format!("roof: {} has {}", to.display(), bytes(size)));
            Ok(0)
        }
    }
}

fn cannot(what: &str, file: &Path) -> String {
    format!("cannot {what} {}", file.display())
}

fn check(file: &Path, repair: bool, format: Option<ImageFormat>) -> Result<u8> {
    let mut progress = Progress::default();
    progress.step(&format!("checking {}", file.display()));
    let found = disk::check(file, format.map(ImageFormat::into), repair, &mut |done, all| {
        progress.part(done, all);
    });
    progress.end();
    let found = found.with_context(|| cannot("check", file))?;
    for problem in &found.problems {
        println!("{problem}");
    }
    println!("{}: {}", file.display(), verdict(&found));
    Ok(if found.is_sound() { 0 } else { UNSOUND })
}

fn verdict(found: &Check) -> String {
    if found.format == disk::Format::Raw {
        return "a raw image has nothing that could be wrong".into();
    }
    let repaired = match found.repaired {
        0 => String::new(),
        count => format!(", {count} repaired"),
    };
    let clusters = found.allocated_clusters;
    if found.is_sound() {
        return format!("sound, {clusters} clusters in use{repaired}");
    }
    let fix = match (found.errors, found.repaired) {
        (0, _) | (_, 0) => "; --repair mends what can be",
        _ => "; what is left must be copied out (roof disk convert, or a backup)",
    };
    let marked = if found.marked { ", marked as not closed or damaged" } else { "" };
    format!("{} errors, {} leaked clusters{marked}{repaired}{fix}", found.errors, found.leaks)
}

fn print_info(info: &Info) {
    println!("file       {}", info.path.display());
    let version = info.version.map_or(String::new(), |version| format!(", version {version}"));
    println!("format     {}{version}", info.format.name());
    println!("size       {}", bytes(info.capacity));
    println!("on host    {}", bytes(info.allocated));
    if let Some(cluster) = info.cluster_size {
        println!("clusters   {}", bytes(cluster));
    }
    if let Some(backing) = &info.backing {
        let format = info.backing_format.as_deref().unwrap_or("format not said");
        println!("backing    {} ({format})", backing.escape_debug());
    }
    if !info.features.is_empty() {
        println!("features   {}", info.features.join(", "));
    }
    for snapshot in &info.snapshots {
        println!("snapshot   {} {}", snapshot.id.escape_debug(), snapshot.name.escape_debug());
    }
}

/// An image for programs (docs/json.md).
#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: u32,
    file: String,
    format: &'static str,
    size: u64,
    allocated: u64,
    cluster_size: Option<u64>,
    version: Option<u32>,
    compression: Option<&'static str>,
    backing: Option<&'a str>,
    backing_format: Option<&'a str>,
    features: &'a [&'static str],
    snapshots: Vec<Snapshot<'a>>,
}

#[derive(Debug, Serialize)]
struct Snapshot<'a> {
    id: &'a str,
    name: &'a str,
    seconds: u32,
}

fn print_json(info: &Info) -> Result<()> {
    let snapshots = info.snapshots.iter();
    let report = Report {
        schema: 1,
        file: info.path.display().to_string(),
        format: info.format.name(),
        size: info.capacity,
        allocated: info.allocated,
        cluster_size: info.cluster_size,
        version: info.version,
        compression: info.compression,
        backing: info.backing.as_deref(),
        backing_format: info.backing_format.as_deref(),
        features: &info.features,
        snapshots: snapshots
            .map(|one| Snapshot { id: &one.id, name: &one.name, seconds: one.seconds })
            .collect(),
    };
    println!("{}", serde_json::to_string_pretty(&report).context("cannot make the report")?);
    Ok(())
}

/// A size as people say it, and exactly.
fn bytes(count: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| count >> shift != 0) {
        None => format!("{count} bytes"),
        Some((unit, shift)) => {
            let tenths = (u128::from(count) * 10) >> shift;
            format!("{}.{} {unit} ({count} bytes)", tenths / 10, tenths % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(512), "512 bytes");
        assert_eq!(bytes(65536), "64.0 KiB (65536 bytes)");
        assert_eq!(bytes(1 << 20), "1.0 MiB (1048576 bytes)");
        assert_eq!(bytes(3 << 29), "1.5 GiB (1610612736 bytes)");
    }
}
