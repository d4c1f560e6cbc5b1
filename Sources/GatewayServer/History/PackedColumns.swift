import Foundation
import GRDB
import GatewayCore

/// Request ids: a UUID as its 16 bytes, anything else as text.
enum UUIDBytes {
    static func pack(_ text: String) -> any DatabaseValueConvertible {
        var bytes: [UInt8] = []
        var high: UInt8?
        for character in text.utf8 where character != UInt8(ascii: "-") {
            // Upper case would come back as lower case.
            guard let digit = character.hexValue, !(0x41...0x46).contains(character) else { return text }
            if let first = high {
                bytes.append(first << 4 | digit)
                high = nil
            } else {
                high = digit
            }
        }
        guard text.utf8.count == 36, bytes.count == 16, high == nil else { return text }
        return Data(bytes)
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
    static func pack(_ text: String) -> any DatabaseValueConvertible {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        var number: Int64 = 0
        for part in parts {
            guard let byte = UInt8(part), String(byte) == part else { return text }
            number = number << 8 | Int64(byte)
        }
        return parts.count == 4 ? number : text
    }

    static func unpack(_ value: DatabaseValue) -> String {
        switch value.storage {
        case .int64(let number): (0..<4).map { String(number >> (24 - 8 * $0) & 255) }.joined(separator: ".")
        case .string(let text): text
        default: ""
        }
    }
}
