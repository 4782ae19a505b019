//! The checksum in FINGERPRINT.

/// CRC-32 as in ISO-HDLC, the one FINGERPRINT is made of; eight bytes at a time, because some clients put a fingerprint
/// under every Send indication.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    const TABLES: [[u32; 256]; 8] = {
        let mut tables = [[0; 256]; 8];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ (0xedb8_8320 & (value & 1).wrapping_neg());
                bit += 1;
            }
            tables[0][index] = value;
            index += 1;
        }
        let mut table = 1;
        while table < 8 {
            let mut index = 0;
            while index < 256 {
                let shorter = tables[table - 1][index];
                tables[table][index] = (shorter >> 8) ^ tables[0][(shorter & 0xff) as usize];
                index += 1;
            }
            table += 1;
        }
        tables
    };
    let mut crc = !0_u32;
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let [a, b, c, d] = crc.to_le_bytes();
        crc = TABLES[7][usize::from(eight[0] ^ a)]
            ^ TABLES[6][usize::from(eight[1] ^ b)]
            ^ TABLES[5][usize::from(eight[2] ^ c)]
            ^ TABLES[4][usize::from(eight[3] ^ d)]
            ^ TABLES[3][usize::from(eight[4])]
            ^ TABLES[2][usize::from(eight[5])]
            ^ TABLES[1][usize::from(eight[6])]
            ^ TABLES[0][usize::from(eight[7])];
    }
    !rest.iter().fold(crc, |crc, &byte| (crc >> 8) ^ TABLES[0][usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_standard_one_whatever_the_length() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32(b"a"), 0xe8b7_be43);
    }
}
