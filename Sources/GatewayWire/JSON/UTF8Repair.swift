/// Makes JSON text readable that is valid but for its characters.
enum UTF8Repair {
    /// Replaces invalid UTF-8 and escapes of lone surrogates by U+FFFD.
    static func repair(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        // String's decoder replaces invalid UTF-8 as the Unicode standard recommends.
        var text = Array(String(decoding: bytes, as: UTF8.self).utf8)
        _ = replaceLoneSurrogates(in: &text)
        return text
    }

    /// Replaces escapes of lone surrogates by U+FFFD, and leaves everything else as it is.
    /// - Returns: whether there was one.
    static func replaceLoneSurrogates(in text: inout [UInt8]) -> Bool {
        var hasReplaced = false
        var index = 0
        while index < text.count, let escape = text[index...].firstIndex(of: UInt8(ascii: "\\")) {
            guard let unit = escapedUnit(text, at: escape) else {
                index = escape + 2
                continue
            }
            index = escape + 6
            let isHigh = (0xD800...0xDBFF).contains(unit)
            if isHigh, let next = escapedUnit(text, at: index), isLow(next) {
                index += 6
            } else if isHigh || isLow(unit) {
                text.replaceSubrange(escape..<index, with: "\\ufffd".utf8)
                hasReplaced = true
            }
        }
        return hasReplaced
    }

    private static func isLow(_ unit: UInt16) -> Bool { (0xDC00...0xDFFF).contains(unit) }

    /// The code unit of `\uXXXX` at an index, where one stands there.
    private static func escapedUnit(_ text: [UInt8], at index: Int) -> UInt16? {
        guard index + 6 <= text.count, text[index] == UInt8(ascii: "\\"), text[index + 1] == UInt8(ascii: "u") else {
            return nil
        }
        return UInt16(String(decoding: text[(index + 2)..<(index + 6)], as: UTF8.self), radix: 16)
    }
}
