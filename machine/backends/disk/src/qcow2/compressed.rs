//! Compressed clusters: raw deflate, or a Zstandard frame, of exactly one cluster.
//!
//! Invariant: no more than a cluster comes out, whatever goes in.

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};

use super::header::Compression;

/// Memory that a Zstandard frame may ask for as its window.
const WINDOW: u64 = 8 << 20;

/// Fills a cluster from its compressed bytes, which may have others behind; `None` if they are none.
pub(crate) fn decompress(how: Compression, from: &[u8], into: &mut [u8]) -> Option<()> {
    match how {
        Compression::Zlib => {
            let mut inflate = Decompress::new(false);
            let status = inflate.decompress(from, into, FlushDecompress::Finish).ok()?;
            let full = inflate.total_out() == into.len() as u64;
            (full && matches!(status, Status::StreamEnd | Status::BufError | Status::Ok))
                .then_some(())
        }
        Compression::Zstd => {
            let window = WINDOW;
            let mut decoder =
                ruzstd::decoding::StreamingDecoder::new_with_max_window_size(from, window).ok()?;
            decoder.read_exact(into).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_cluster_comes_out_whole_or_not_at_all() {
        let data: Vec<u8> = (0..4096_u32).map(|n| (n / 7) as u8).collect();
        let mut zlib = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        zlib.write_all(&data).expect("memory");
        let mut zlib = zlib.finish().expect("memory");
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let mut zstd = ruzstd::encoding::compress_to_vec(data.as_slice(), level);
        for (how, packed) in [(Compression::Zlib, &mut zlib), (Compression::Zstd, &mut zstd)] {
            let mut out = vec![0; 4096];
            packed.extend([0; 100]);
            decompress(how, packed, &mut out).expect("well formed");
            assert!(out == data);
            let half = packed.len() / 2 - 60;
            assert!(decompress(how, &packed[..half], &mut out).is_none(), "{how:?} cut short");
            assert!(decompress(how, packed, &mut vec![0; 8192]).is_none(), "{how:?} too little");
        }
    }
}
