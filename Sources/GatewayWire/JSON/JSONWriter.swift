import GatewayCore
import NIOCore

/// Writes JSON straight into a buffer. Commas are placed by itself; braces are the caller's.
package struct JSONWriter {
    package var buffer: ByteBuffer
    private var needsComma = false

    package init(_ buffer: ByteBuffer = ByteBuffer()) { self.buffer = buffer }

    package mutating func beginObject() { open(UInt8(ascii: "{")) }
    package mutating func endObject() { close(UInt8(ascii: "}")) }
    package mutating func beginArray() { open(UInt8(ascii: "[")) }
    package mutating func endArray() { close(UInt8(ascii: "]")) }

    private mutating func open(_ brace: UInt8) {
        separate()
        buffer.writeInteger(brace)
        needsComma = false
    }

    private mutating func close(_ brace: UInt8) {
        buffer.writeInteger(brace)
        needsComma = true
    }

    private mutating func separate() {
        if needsComma { buffer.writeInteger(UInt8(ascii: ",")) }
        needsComma = true
    }

    /// A key; its value must follow.
    package mutating func key(_ name: StaticString) {
        let needsComma = needsComma
        // One write for the whole of `,"name":`; a reply has dozens of keys.
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: name.utf8CodeUnitCount + 4) { bytes in
            var at = 0
            func put(_ byte: UInt8) {
                bytes[at] = byte
                at += 1
            }
            if needsComma { put(UInt8(ascii: ",")) }
            put(UInt8(ascii: "\""))
            for byte in UnsafeBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount) { put(byte) }
            put(UInt8(ascii: "\""))
            put(UInt8(ascii: ":"))
            return at
        }
        self.needsComma = false
    }

    package mutating func key(_ name: String) {
        separate()
        buffer.writeJSONString(name)
        buffer.writeInteger(UInt8(ascii: ":"))
        needsComma = false
    }

    package mutating func value(_ text: String) {
        separate()
        buffer.writeJSONString(text)
    }

    package mutating func value(_ flag: Bool) {
        separate()
        buffer.writeStaticString(flag ? "true" : "false")
    }

    package mutating func value(_ number: Int) {
        separate()
        buffer.writeDecimal(number)
    }

    package mutating func value(_ number: JSONNumber) {
        switch number {
        case .integer(let integer): value(Int(integer))
        case .double(let double):
            separate()
            buffer.writeString(double.description)
        }
    }

    /// Without a fraction where there is none: 14 and 13.5, as the recorded replies have it.
    package mutating func compactValue(_ number: Double) {
        if let whole = Int(exactly: number) {
            value(whole)
        } else {
            value(.double(number))
        }
    }

    /// Three decimals: microseconds of a time in milliseconds.
    package mutating func milliseconds(_ duration: Duration) {
        separate()
        let microseconds = duration.nanoseconds / 1000
        buffer.writeDecimal(Int(microseconds / 1000))
        let rest = Int(microseconds % 1000)
        guard rest > 0 else { return }
        buffer.writeInteger(UInt8(ascii: "."))
        if rest < 100 { buffer.writeInteger(UInt8(ascii: "0")) }
        if rest < 10 { buffer.writeInteger(UInt8(ascii: "0")) }
        buffer.writeDecimal(rest)
    }

    package mutating func millisecondsOrNull(_ duration: Duration?) {
        if let duration { milliseconds(duration) } else { null() }
    }

    package mutating func null() {
        separate()
        buffer.writeStaticString("null")
    }

    /// JSON that is already written.
    package mutating func raw(_ json: ByteBuffer) {
        separate()
        buffer.writeImmutableBuffer(json)
    }

    package mutating func field(_ name: StaticString, _ text: String) {
        key(name)
        value(text)
    }

    package mutating func field(_ name: StaticString, _ number: Int) {
        key(name)
        value(number)
    }

    package mutating func field(_ name: StaticString, _ flag: Bool) {
        key(name)
        value(flag)
    }

    package mutating func field(_ name: StaticString, _ number: JSONNumber) {
        key(name)
        value(number)
    }

    /// In milliseconds, as the name should say.
    package mutating func field(_ name: StaticString, _ duration: Duration) {
        key(name)
        milliseconds(duration)
    }

    package mutating func field(_ name: StaticString, _ texts: [String]) {
        key(name)
        beginArray()
        for text in texts { value(text) }
        endArray()
    }

    // What is nil is written as null.

    package mutating func field(_ name: StaticString, _ text: String?) {
        if let text { field(name, text) } else { nullField(name) }
    }

    package mutating func field(_ name: StaticString, _ number: Int?) {
        if let number { field(name, number) } else { nullField(name) }
    }

    package mutating func field(_ name: StaticString, _ flag: Bool?) {
        if let flag { field(name, flag) } else { nullField(name) }
    }

    package mutating func field(_ name: StaticString, _ duration: Duration?) {
        if let duration { field(name, duration) } else { nullField(name) }
    }

    package mutating func nullField(_ name: StaticString) {
        key(name)
        null()
    }
}

extension ByteBuffer {
    package mutating func writeDecimal(_ number: Int) {
        if number >= 0 && number < 10 {
            writeInteger(UInt8(ascii: "0") + UInt8(number))
            return
        }
        withUnsafeTemporaryAllocation(byteCount: 20, alignment: 1) { digits in
            var start = digits.count
            var rest = number.magnitude
            while rest > 0 {
                start -= 1
                digits[start] = UInt8(ascii: "0") + UInt8(rest % 10)
                rest /= 10
            }
            if number < 0 {
                start -= 1
                digits[start] = UInt8(ascii: "-")
            }
            writeBytes(UnsafeRawBufferPointer(rebasing: digits[start...]))
        }
    }

    /// A JSON string with its quotes (RFC 8259 section 7). The only place that escapes.
    package mutating func writeJSONString(_ text: String) {
        var text = text
        text.withUTF8 { source in
            var escapes = 0
            for byte in source where byte.needsEscape { escapes += 1 }
            writeWithUnsafeMutableBytes(minimumWritableBytes: source.count + 5 * escapes + 2) { bytes in
                bytes[0] = UInt8(ascii: "\"")
                var at = 1
                if escapes == 0 {
                    let run = UnsafeMutableRawBufferPointer(rebasing: bytes[1...])
                    run.copyMemory(from: UnsafeRawBufferPointer(source))
                    at += source.count
                } else {
                    for byte in source { byte.writeInJSONString(bytes, &at) }
                }
                bytes[at] = UInt8(ascii: "\"")
                return at + 1
            }
        }
    }
}

extension UInt8 {
    fileprivate var needsEscape: Bool { self < 0x20 || self == UInt8(ascii: "\"") || self == UInt8(ascii: "\\") }

    /// Of 0 to 15, in lower case.
    package var hexDigit: UInt8 { self < 10 ? UInt8(ascii: "0") + self : UInt8(ascii: "a") + self - 10 }

    /// At most six bytes.
    fileprivate func writeInJSONString(_ bytes: UnsafeMutableRawBufferPointer, _ at: inout Int) {
        func put(_ byte: UInt8) {
            bytes[at] = byte
            at += 1
        }
        guard needsEscape else { return put(self) }
        put(UInt8(ascii: "\\"))
        switch self {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"): put(self)
        case 0x0A: put(UInt8(ascii: "n"))
        case 0x0D: put(UInt8(ascii: "r"))
        case 0x09: put(UInt8(ascii: "t"))
        default:
            put(UInt8(ascii: "u"))
            put(UInt8(ascii: "0"))
            put(UInt8(ascii: "0"))
            put((self >> 4).hexDigit)
            put((self & 15).hexDigit)
        }
    }
}
