import Foundation
import GRDB
import GatewayCore

/// Request ids: a UUID as its 16 bytes, anything else as text.
enum UUIDBytes {
    /// Nil where the text would not come back as it is: only a UUID in lower case does.
    static func pack(_ text: String) -> (high: UInt64, low: UInt64)? {
        var text = text
        return text.withUTF8 { characters in
            guard characters.count == 36 else { return nil }
            var digits: (high: UInt64, low: UInt64) = (0, 0)
            for index in 0..<36 {
                let character = characters[index]
                if index == 8 || index == 13 || index == 18 || index == 23 {
                    guard character == UInt8(ascii: "-") else { return nil }
                    continue
                }
                guard let digit = character.hexValue, !(0x41...0x46).contains(character) else { return nil }
                digits = (digits.high << 4 | digits.low >> 60, digits.low << 4 | UInt64(digit))
            }
            return digits
        }
    }

    static func value(_ text: String) -> any DatabaseValueConvertible {
        guard let (high, low) = pack(text) else { return text }
        var bytes = Data()
        withUnsafeBytes(of: (high.bigEndian, low.bigEndian)) { bytes.append(contentsOf: $0) }
        return bytes
    }

    static func unpack(_ value: DatabaseValue) -> String {
        switch value.storage {
        case .blob(let data) where data.count == 16:
            var text = ""
            for (index, byte) in data.enumerated() {
                if [4, 6, 8, 10].contains(index) { text += "-" }
                text += String(byte >> 4, radix: 16) + String(byte & 15, radix: 16)
            }
            return text
        case .string(let text): return text
        default: return ""
        }
    }
}

/// Texts of clients and models: one with a NUL as its bytes, as GRDB's strings end there.
enum TextColumn {
    static func pack(_ text: String) -> any DatabaseValueConvertible {
        text.utf8.contains(0) ? Data(text.utf8) : text
    }

    static func unpack(_ value: DatabaseValue) -> String? {
        switch value.storage {
        case .string(let text): text
        case .blob(let data): String(decoding: data, as: UTF8.self)
        default: nil
        }
    }
}

/// Client addresses: IPv4 as a number, anything else as text.
enum AddressText {
    /// Nil where it is not four numbers without leading zeros.
    static func pack(_ text: String) -> Int64? {
        var number: Int64 = 0
        var part: Int64?
        var dots = 0
        for character in text.utf8 {
            switch (character, part) {
            case (UInt8(ascii: "."), let ended?):
                number = number << 8 | ended
                part = nil
                dots += 1
            case (0x30...0x39, nil): part = Int64(character - 0x30)
            case (0x30...0x39, let begun?) where begun > 0:
                let value = begun * 10 + Int64(character - 0x30)
                guard value < 256 else { return nil }
                part = value
            default: return nil
            }
        }
        guard dots == 3, let part else { return nil }
        return number << 8 | part
    }

    static func unpack(_ value: DatabaseValue) -> String {
        switch value.storage {
        case .int64(let number): (0..<4).map { String(number >> (24 - 8 * $0) & 255) }.joined(separator: ".")
        case .string(let text): text
        default: ""
        }
    }
}
