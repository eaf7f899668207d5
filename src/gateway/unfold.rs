//! A compressed body, unfolded within bounds: a bounded number of bytes goes in, and a bounded number comes out.

use std::io::{self, Read};

use flate2::bufread::GzDecoder;

use crate::domain::fault::Fault;
use crate::web::failure::Failure;

pub(super) const TOO_LARGE: Failure = Failure::new(Fault::TooLarge, "the reply is larger than 1 MiB");

/// The one encoding that we ask for.
pub(super) const GZIP: &str = "gzip";

const UNKNOWN: Failure =
    Failure::new(Fault::Unreadable, "the reply is encoded in a way that nobody asked for");
const BROKEN: Failure = Failure::new(Fault::Unreadable, "the reply cannot be decompressed");
const CUT_OFF: Failure = Failure::new(Fault::Truncated, "the compressed reply ends before its end");

/// The body as it was before it was encoded; at most `bytes_max` of it.
pub(super) fn unfold(
    folded: Vec<u8>,
    encoding: Option<String>,
    bytes_max: usize,
) -> Result<Vec<u8>, Failure> {
    match encoding.as_deref() {
        None => Ok(folded),
        // What has no body is not compressed either, whatever its headers say.
        Some(_) if folded.is_empty() => Ok(folded),
        Some(GZIP | "x-gzip") => gunzip(&folded, bytes_max),
        Some(_) => Err(UNKNOWN),
    }
}

fn gunzip(folded: &[u8], bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let mut unfolding = GzDecoder::new(folded).take(bytes_max as u64 + 1);
    match unfolding.read_to_end(&mut body) {
        Ok(_) if body.len() > bytes_max => Err(TOO_LARGE),
        // One member: thousands of empty ones would cost more time than they have bytes.
        Ok(_) if !unfolding.into_inner().into_inner().is_empty() => Err(BROKEN),
        Ok(_) => Ok(body),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(CUT_OFF),
        Err(_broken) => Err(BROKEN),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(body).expect("into memory");
        encoder.finish().expect("into memory")
    }

    fn check(folded: &[u8], encoding: &str, expected: Result<&[u8], Fault>) {
        let unfolded = unfold(folded.to_vec(), Some(encoding.to_owned()), 1_000);
        let unfolded = unfolded.map_err(|failure| failure.fault);
        assert_eq!(unfolded.as_deref().map_err(|fault| *fault), expected);
    }

    #[test]
    fn a_body_is_unfolded_up_to_its_bound_and_no_byte_further() {
        check(&gzip(b"hello"), "gzip", Ok(b"hello"));
        check(&gzip(b""), "x-gzip", Ok(b""));
        check(b"", "br", Ok(b""));
        check(&gzip(&[b' '; 1_000]), "gzip", Ok(&[b' '; 1_000]));
        check(&gzip(&[b' '; 1_001]), "gzip", Err(Fault::TooLarge));
        check(&gzip(&vec![b' '; 100_000_000]), "gzip", Err(Fault::TooLarge));
    }

    #[test]
    fn what_is_no_whole_gzip_is_told_apart() {
        let folded = gzip(b"hello");
        for cut in 1..folded.len() {
            check(&folded[..cut], "gzip", Err(Fault::Truncated));
        }
        check(b"not gzip at all", "gzip", Err(Fault::Unreadable));
        check(&[folded.clone(), folded.clone()].concat(), "gzip", Err(Fault::Unreadable));
        check(&[folded.as_slice(), b"x"].concat(), "gzip", Err(Fault::Unreadable));
        let mut damaged = folded.clone();
        *damaged.last_mut().expect("not empty") ^= 1;
        check(&damaged, "gzip", Err(Fault::Unreadable));
        for encoding in ["br", "deflate", "gzip,gzip", "gzip, identity;q=0", "zstd"] {
            check(&folded, encoding, Err(Fault::Unreadable));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_panics_or_unfolds_beyond_the_bound(
            folded in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut nearly = gzip(&[b'x'; 2_000]);
            let at = at.index(nearly.len());
            nearly[at] = byte;
            for folded in [folded, nearly] {
                if let Ok(body) = unfold(folded, Some(GZIP.to_owned()), 1_000) {
                    prop_assert!(body.len() <= 1_000);
                }
            }
        }
    }
}
