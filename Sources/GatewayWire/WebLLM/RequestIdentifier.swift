/// A random UUID (RFC 9562 version 4) in lower case.
package enum RequestIdentifier {
    package static func make(using random: inout some RandomNumberGenerator) -> String {
        var high = random.next() as UInt64
        var low = random.next() as UInt64
        high = high & 0xFFFF_FFFF_FFFF_0FFF | 0x4000
        low = low & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
        return String(unsafeUninitializedCapacity: 36) { bytes in
            var at = 0
            for word in [high, low] {
                for nibble in 0..<16 {
                    if at == 8 || at == 13 || at == 18 || at == 23 {
                        bytes[at] = UInt8(ascii: "-")
                        at += 1
                    }
                    let digit = UInt8(truncatingIfNeeded: word >> (60 - 4 * UInt64(nibble))) & 15
                    bytes[at] = digit.hexDigit
                    at += 1
                }
            }
            return 36
        }
    }
}
