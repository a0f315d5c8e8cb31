//! Where a program asks for memory, as its threads say themselves.

use std::cell::RefCell;

/// The most bytes of a site that are kept.
pub const SITE_MAX: usize = 400;

thread_local!(static SITE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });

/// What this thread asks for from now on is asked for there; empty is not told. One line: a control
/// character is written as a blank, and what is longer than [`SITE_MAX`] is cut.
pub fn set_site(text: &[u8]) {
    let mut end = text.len().min(SITE_MAX);
    // Not within a letter of UTF-8.
    while end < text.len() && end > 0 && text[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    let line = text[..end].iter().map(|&byte| if byte.is_ascii_control() { b' ' } else { byte });
    // A thread that is ending tells nobody. One that comes here from within, by an allocator that
    // is traced itself, has its own call to finish.
    let _ = SITE.try_with(|site| {
        if let Ok(mut site) = site.try_borrow_mut() {
            site.clear();
            site.extend(line);
        }
    });
}

/// What this thread said last, copied to `into`.
pub(super) fn site(into: &mut [u8; SITE_MAX]) -> &[u8] {
    let copied = SITE.try_with(|site| {
        let Ok(site) = site.try_borrow() else { return 0 };
        into[..site.len()].copy_from_slice(&site);
        site.len()
    });
    &into[..copied.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &[u8]) -> Vec<u8> {
        set_site(text);
        site(&mut [0; SITE_MAX]).to_vec()
    }

    #[test]
    fn a_site_is_one_line_and_not_longer_than_the_limit() {
        assert_eq!(said(b"model.c:7 f(a, b)"), b"model.c:7 f(a, b)");
        assert_eq!(said(b"a\nb\r\tc\x7f\0"), b"a b  c  ");
        assert_eq!(said(b""), b"");
        assert_eq!(said(&[b'x'; SITE_MAX]), [b'x'; SITE_MAX]);
        assert_eq!(said(&[b'x'; SITE_MAX + 1]), [b'x'; SITE_MAX]);
        // A letter of two bytes over the end is left out; what is no text is as it is.
        let mut long = vec![b'x'; SITE_MAX - 1];
        long.extend("\u{e9}".as_bytes());
        assert_eq!(said(&long), vec![b'x'; SITE_MAX - 1]);
        assert_eq!(said(&[0xff, 0xfe]), [0xff, 0xfe]);
        assert_eq!(said(&[0x80; 1000]), b"");
    }

    #[test]
    fn each_thread_has_its_own() {
        set_site(b"here");
        let there = std::thread::spawn(|| site(&mut [0; SITE_MAX]).to_vec()).join().unwrap();
        assert_eq!((there, site(&mut [0; SITE_MAX])), (Vec::new(), &b"here"[..]));
    }
}
