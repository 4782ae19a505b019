//! From when until when a certificate holds: the one thing that the server has to know of it and that the TLS library does
//! not tell. RFC 5280, section 4.1, and of DER no more than leads there.

/// Seconds since 1970, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, explicit.
const VERSION: u8 = 0xa0;

impl Validity {
    /// Of a certificate in DER; `None` if it is none.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let mut certificate = Der(Der(certificate).take(SEQUENCE)?);
        let mut body = Der(certificate.take(SEQUENCE)?);
        if body.0.first() == Some(&VERSION) {
            body.take(VERSION)?;
        }
        body.take(INTEGER)?;
        // How it is signed, and by whom.
        body.take(SEQUENCE)?;
        body.take(SEQUENCE)?;
        let mut validity = Der(body.take(SEQUENCE)?);
        Some(Self { not_before: validity.time()?, not_after: validity.time()? })
    }
}

/// Elements that are still to be read.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The contents of the next element, if it is of this kind.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&found, rest) = self.0.split_first()?;
        let (&length, rest) = rest.split_first()?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            // So many bytes of length follow.
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (found == tag).then_some(contents)
    }

    fn time(&mut self) -> Option<i64> {
        let (digits, century) = match self.0.first()? {
            &UTC_TIME => (self.take(UTC_TIME)?, None),
            _ => {
                let (century, digits) = self.take(GENERALIZED_TIME)?.split_at_checked(2)?;
                (digits, Some(number(century)?))
            }
        };
        let [year, month, day, hour, minute, second] = match digits.split_last()? {
            (b'Z', digits) if digits.len() == 12 => {
                let mut pairs = digits.chunks(2).map(number);
                [(); 6].map(|()| pairs.next().flatten())
            }
            _ => return None,
        };
        let (year, month, day) = (year?, month?, day?);
        // Two digits of a year are from 1950 to 2049.
        let century = century.unwrap_or(if year < 50 { 20 } else { 19 });
        let days = days_since_1970(century * 100 + year, month, day)?;
        Some(((days * 24 + hour?) * 60 + minute?) * 60 + second?)
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    let is_number = digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
}

/// In the Gregorian calendar, whose years begin in March here, so that the day that may be missing is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let days_before_month = (153 * ((month + 9) % 12) + 2) / 5;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 1970-01-01 is this many days after the first of March of the year 0.
    Some(365 * year + leap_days + days_before_month + day - 1 - 719_468)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn validity(from: (i32, u8, u8), to: (i32, u8, u8)) -> Validity {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        Validity::of(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
    }

    #[test]
    fn it_is_read_in_both_forms() {
        for (from, to, not_before, not_after) in [
            ((1970, 1, 1), (2000, 2, 29), 0, 951_782_400),
            ((1999, 12, 31), (2049, 12, 31), 946_598_400, 2_524_521_600),
            ((2024, 3, 1), (2050, 1, 1), 1_709_251_200, 2_524_608_000),
            ((2100, 3, 1), (4096, 1, 1), 4_107_542_400, 67_090_118_400),
        ] {
            assert_eq!(validity(from, to), Validity { not_before, not_after }, "{from:?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_damaged_has_none_and_does_no_harm() {
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let der: &[u8] = certificate.der();
        for length in 0..der.len() {
            assert_eq!(Validity::of(&der[..length]), None);
        }
        for at in 0..der.len() {
            for value in [0, 0x7f, 0x80, 0x83, 0x84, 0xff] {
                let mut damaged = der.to_vec();
                damaged[at] = value;
                let _ = Validity::of(&damaged);
            }
        }
    }
}
