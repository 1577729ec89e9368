//! Opens files that may be compressed, by their first bytes: xz, zstd, gzip, or as they are.
//!
//! Invariant: memory is bounded by the format's own window; errors are the reader's, as `io::Error`.

use std::io::{self, BufReader, Read};

const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// The largest preset's dictionary is 64 MiB; a header may ask for 4 GiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A reader of the plain bytes.
pub(crate) fn reader<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(1 << 18, source);
    let mut head = Vec::new();
    source.by_ref().take(XZ.len() as u64).read_to_end(&mut head)?;
    let source = BufReader::with_capacity(1 << 18, io::Cursor::new(head.clone()).chain(source));
    Ok(if head.starts_with(XZ) {
        Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, XZ_MEMORY_KIB))
    } else if head.starts_with(ZSTD) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(source).map_err(io::Error::other)?;
        Box::new(decoder)
    } else if head.starts_with(GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(source))
    } else {
        Box::new(source)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn plain(packed: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        reader(packed).and_then(|mut reader| reader.read_to_end(&mut out)).expect("well formed");
        out
    }

    #[test]
    fn every_format_gives_the_same_bytes() {
        let data: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
        assert_eq!(plain(&data), data);
        assert_eq!(plain(b"abc"), b"abc");
        assert_eq!(plain(b""), b"");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&data).expect("writes memory");
        assert_eq!(plain(&gzip.finish().expect("writes memory")), data);
        let zstd = ruzstd::encoding::compress_to_vec(
            data.as_slice(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        assert_eq!(plain(&zstd), data);
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).expect("a valid preset");
        xz.write_all(&data).expect("writes memory");
        assert_eq!(plain(&xz.finish().expect("writes memory")), data);
    }
}
