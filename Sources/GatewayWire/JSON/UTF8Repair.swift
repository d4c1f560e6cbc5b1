/// Makes JSON text readable that is valid but for its characters.
enum UTF8Repair {
    /// Replaces invalid UTF-8 and escapes of lone surrogates by U+FFFD.
    static func repair(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        // String's decoder replaces invalid UTF-8 as the Unicode standard recommends.
        let text = Array(String(decoding: bytes, as: UTF8.self).utf8)
        var output: [UInt8] = []
        output.reserveCapacity(text.count)
        var index = 0
        while index < text.count {
            guard text[index] == UInt8(ascii: "\\"), index + 1 < text.count else {
                output.append(text[index])
                index += 1
                continue
            }
            guard let unit = escapedUnit(text, at: index) else {
                output.append(contentsOf: text[index...index + 1])
                index += 2
                continue
            }
            let isHigh = (0xD800...0xDBFF).contains(unit)
            let isLow = (0xDC00...0xDFFF).contains(unit)
            if isHigh, let next = escapedUnit(text, at: index + 6), (0xDC00...0xDFFF).contains(next) {
                output.append(contentsOf: text[index..<index + 12])
                index += 12
            } else {
                output.append(contentsOf: isHigh || isLow ? Array("\\ufffd".utf8) : Array(text[index..<index + 6]))
                index += 6
            }
        }
        return output
    }

    /// The code unit of `\uXXXX` at an index, where one stands there.
    private static func escapedUnit(_ text: [UInt8], at index: Int) -> UInt16? {
        guard index + 6 <= text.count, text[index] == UInt8(ascii: "\\"), text[index + 1] == UInt8(ascii: "u") else {
            return nil
        }
        return UInt16(String(decoding: text[(index + 2)..<(index + 6)], as: UTF8.self), radix: 16)
    }
}
