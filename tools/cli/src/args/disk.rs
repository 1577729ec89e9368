//! The command line of `roof disk`.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use control::disk::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum Disk {
    /// Make a new image
    #[command(after_help = "\
Examples:
  roof disk create disk.qcow2 20G
  roof disk create disk.img 512M --format raw
  roof disk create test.qcow2 --backing debian.qcow2    debian.qcow2 stays as it is")]
    Create {
        /// The image; there must be no file of that name
        file: PathBuf,
        /// Its disk's size: 512M, 20G; a plain number is bytes (default: the backing file's)
        #[arg(value_parser = parse_bytes, required_unless_present = "backing")]
        size: Option<u64>,
        /// How the image holds its disk
        #[arg(long, value_enum, default_value_t)]
        format: ImageFormat,
        /// Show this image where nothing was written; it is only read
        #[arg(long, value_name = "FILE")]
        backing: Option<PathBuf>,
        /// A cluster of qcow2: 512 to 2M (default: 64K)
        #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
        cluster_size: Option<u64>,
    },
    /// Say what an image is
    #[command(after_help = "\
Examples:
  roof disk info disk.qcow2
  roof disk info --json disk.qcow2    for programs (docs/json.md)")]
    Info {
        /// The image
        file: PathBuf,
        /// Its format, instead of detecting it
        #[arg(long, value_enum)]
        format: Option<ImageFormat>,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Change a disk's size
    ///
    /// What is gained reads as zeros; partitions and file systems are the guest's to enlarge.
    #[command(after_help = "\
Examples:
  roof disk resize disk.qcow2 40G
  roof disk resize disk.qcow2 +10G
  roof disk resize disk.qcow2 1G --shrink    what lies past 1 GiB is lost")]
    Resize {
        /// The image; nobody may use it
        file: PathBuf,
        /// The new size: 40G; or by how much it grows: +10G
        #[arg(value_parser = parse_new_size)]
        size: NewSize,
        /// Let the disk lose its end
        #[arg(long)]
        shrink: bool,
        /// The image's format, instead of detecting it
        #[arg(long, value_enum)]
        format: Option<ImageFormat>,
        /// Allow this backing file outside of the image's folder
        #[arg(long, value_name = "FILE")]
        backing: Vec<PathBuf>,
    },
    /// Check that an image is consistent
    ///
    /// Exit status: 0 it is, 1 it is not (any more after --repair), 125 roof failed.
    #[command(after_help = "\
Examples:
  roof disk check disk.qcow2
  roof disk check --repair disk.qcow2    give lost space back, mend counts")]
    Check {
        /// The image; nobody may write to it
        file: PathBuf,
        /// Mend what can be
        #[arg(long)]
        repair: bool,
        /// The image's format, instead of detecting it
        #[arg(long, value_enum)]
        format: Option<ImageFormat>,
    },
    /// Copy an image, with all that is behind it, into a new one
    #[command(after_help = "\
Examples:
  roof disk convert disk.img disk.qcow2
  roof disk convert disk.qcow2 disk.img --format raw
  roof disk convert overlay.qcow2 whole.qcow2    no backing file any more")]
    Convert {
        /// The image to copy
        #[arg(value_name = "SRC")]
        from: PathBuf,
        /// The new image; there must be no file of that name
        #[arg(value_name = "DST")]
        to: PathBuf,
        /// The new image's format (default: raw for .img and .raw, else qcow2)
        #[arg(long, value_enum)]
        format: Option<ImageFormat>,
        /// The source's format, instead of detecting it
        #[arg(long, value_enum)]
        from_format: Option<ImageFormat>,
        /// Allow this backing file outside of the source's folder
        #[arg(long, value_name = "FILE")]
        backing: Vec<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageFormat {
    #[default]
    Qcow2,
    Raw,
}

impl ImageFormat {
    /// What a file's name lets one expect.
    pub(crate) fn of_name(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("img" | "raw") => Self::Raw,
            _ => Self::Qcow2,
        }
    }
}

impl From<ImageFormat> for Format {
    fn from(format: ImageFormat) -> Self {
        match format {
            ImageFormat::Qcow2 => Self::Qcow2,
            ImageFormat::Raw => Self::Raw,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewSize {
    Bytes(u64),
    More(u64),
}

fn parse_new_size(text: &str) -> Result<NewSize, String> {
    match text.strip_prefix('+') {
        Some(more) => parse_bytes(more).map(NewSize::More),
        None => parse_bytes(text).map(NewSize::Bytes),
    }
}

/// A size in bytes.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.trim_end_matches("ib").trim_end_matches('b');
    let (digits, shift) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 10),
        Some(b'm') => (&lower[..lower.len() - 1], 20),
        Some(b'g') => (&lower[..lower.len() - 1], 30),
        Some(b't') => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    let number: u64 =
        digits.parse().map_err(|_| "a size is like 512M, 20G or 1048576 (bytes)".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "the size is too large to be one".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_have_units() {
        assert_eq!(parse_bytes("512"), Ok(512));
        assert_eq!(parse_bytes("64k"), Ok(65536));
        assert_eq!(parse_bytes("2GiB"), Ok(2 << 30));
        assert_eq!(parse_new_size("+1T"), Ok(NewSize::More(1 << 40)));
        assert_eq!(parse_new_size("1M"), Ok(NewSize::Bytes(1 << 20)));
        assert!(parse_bytes("").is_err() && parse_bytes("1.5G").is_err());
        assert!(parse_bytes("99999999999T").is_err() && parse_new_size("+-1").is_err());
    }

    #[test]
    fn names_tell_formats() {
        assert_eq!(ImageFormat::of_name(Path::new("a.img")), ImageFormat::Raw);
        assert_eq!(ImageFormat::of_name(Path::new("a")), ImageFormat::Qcow2);
    }
}
