extension StringProtocol {
    /// With `%XX` decoded; nil where one is malformed, not UTF-8, or a NUL.
    var percentDecodedPath: String? { percentDecoded(plusIsSpace: false) }

    func percentDecoded(plusIsSpace: Bool) -> String? {
        let isPlain = utf8.withContiguousStorageIfAvailable { bytes in
            !bytes.contains { $0 == UInt8(ascii: "%") || (plusIsSpace && $0 == UInt8(ascii: "+")) }
        }
        if isPlain == true { return String(self) }
        var output: [UInt8] = []
        var rest = Substring(self).utf8
        while let byte = rest.popFirst() {
            switch byte {
            case UInt8(ascii: "%"):
                guard let high = rest.popFirst()?.hexValue, let low = rest.popFirst()?.hexValue else { return nil }
                output.append(high << 4 | low)
            case UInt8(ascii: "+") where plusIsSpace: output.append(0x20)
            default: output.append(byte)
            }
        }
        guard !output.contains(0) else { return nil }
        return String(validating: output, as: UTF8.self)
    }

    /// The first value of a query parameter, decoded; nil where it is absent.
    /// - Throws: ``RequestRefusal`` where it cannot be decoded: a filter must not be lost.
    func queryValue(_ name: String) throws(RequestRefusal) -> String? {
        for pair in split(separator: "&") {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts[0] == name else { continue }
            guard parts.count > 1 else { return "" }
            if let value = parts[1].percentDecoded(plusIsSpace: true) { return value }
            throw RequestRefusal(400, "\(name) holds an invalid percent-encoding, or a NUL")
        }
        return nil
    }
}

extension UInt8 {
    var hexValue: UInt8? {
        switch self {
        case 0x30...0x39: self - 0x30
        case 0x41...0x46: self - 0x41 + 10
        case 0x61...0x66: self - 0x61 + 10
        default: nil
        }
    }
}
