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
        put(atMost: 1) { $0.put(brace) }
        needsComma = false
    }

    private mutating func close(_ brace: UInt8) {
        buffer.write(atMost: 1) { $0.put(brace) }
        needsComma = true
    }

    /// A value with the comma and the key before it, in one write: a reply has dozens of them.
    /// - Parameter most: bytes of the value at most.
    @inline(__always)
    private mutating func put(_ key: StaticString? = nil, atMost most: Int, _ value: (inout ByteCursor) -> Void) {
        let needsComma = needsComma
        buffer.write(atMost: most + (key?.utf8CodeUnitCount ?? 0) + 4) { cursor in
            if needsComma { cursor.put(UInt8(ascii: ",")) }
            if let key {
                cursor.put(UInt8(ascii: "\""))
                cursor.put(key)
                cursor.put("\":")
            }
            value(&cursor)
        }
        self.needsComma = true
    }

    private mutating func put(_ key: StaticString?, _ text: String) {
        text.withBytes { bytes in
            let escapes = bytes.escapeCount
            put(key, atMost: bytes.count + 5 * escapes + 2) { $0.putJSONString(bytes, escapes: escapes) }
        }
    }

    private mutating func put(_ key: StaticString?, _ number: Int) {
        put(key, atMost: Int.decimalWidth) { $0.putDecimal(number) }
    }

    private mutating func put(_ key: StaticString?, _ flag: Bool) {
        put(key, atMost: 5) { $0.put(flag ? "true" : "false") }
    }

    private mutating func put(_ key: StaticString?, _ number: JSONNumber) {
        switch number {
        case .integer(let integer): put(key, Int(integer))
        case .double(let double):
            // As temperatures mostly are: to find the shortest text of any number takes ten times as long.
            if let thousandths = double.thousandths {
                put(key, atMost: Int.decimalWidth) { $0.putThousandths(thousandths, isNegative: double < 0) }
            } else {
                let text = double.description
                put(key, atMost: text.utf8.count) { $0.putText(text) }
            }
        }
    }

    /// Three decimals: microseconds of a time in milliseconds.
    private mutating func put(_ key: StaticString?, _ duration: Duration) {
        let microseconds = Int(duration.nanoseconds / 1000)
        put(key, atMost: Int.decimalWidth + 4) { cursor in
            cursor.putDecimal(microseconds / 1000)
            let rest = microseconds % 1000
            guard rest > 0 else { return }
            cursor.put(".")
            cursor.putDecimal(UInt(rest), digits: 3)
        }
    }

    private mutating func put(_ key: StaticString?, _ timestamp: Timestamp) {
        put(key, atMost: Timestamp.width + 2) { cursor in
            cursor.put("\"")
            cursor.put(timestamp)
            cursor.put("\"")
        }
    }

    private mutating func putNull(_ key: StaticString?) { put(key, atMost: 4) { $0.put("null") } }

    /// A key; its value must follow.
    package mutating func key(_ name: StaticString) {
        put(name, atMost: 0) { _ in }
        needsComma = false
    }

    package mutating func key(_ name: String) {
        value(name)
        buffer.write(atMost: 1) { $0.put(":") }
        needsComma = false
    }

    package mutating func value(_ text: String) { put(nil, text) }

    package mutating func value(_ flag: Bool) { put(nil, flag) }

    package mutating func value(_ number: Int) { put(nil, number) }

    package mutating func value(_ number: JSONNumber) { put(nil, number) }

    package mutating func value(_ timestamp: Timestamp) { put(nil, timestamp) }

    /// Without a fraction where there is none: 14 and 13.5, as the recorded replies have it.
    package mutating func compactValue(_ number: Double) {
        if let whole = Int(exactly: number) {
            value(whole)
        } else {
            value(.double(number))
        }
    }

    package mutating func milliseconds(_ duration: Duration) { put(nil, duration) }

    package mutating func millisecondsOrNull(_ duration: Duration?) {
        if let duration { milliseconds(duration) } else { null() }
    }

    package mutating func null() { putNull(nil) }

    /// JSON that is already written.
    package mutating func raw(_ json: ByteBuffer) {
        put(atMost: 0) { _ in }
        buffer.writeImmutableBuffer(json)
    }

    package mutating func field(_ name: StaticString, _ text: String) { put(name, text) }

    package mutating func field(_ name: StaticString, _ number: Int) { put(name, number) }

    package mutating func field(_ name: StaticString, _ flag: Bool) { put(name, flag) }

    package mutating func field(_ name: StaticString, _ number: JSONNumber) { put(name, number) }

    /// In milliseconds, as the name should say.
    package mutating func field(_ name: StaticString, _ duration: Duration) { put(name, duration) }

    package mutating func field(_ name: StaticString, _ timestamp: Timestamp) { put(name, timestamp) }

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

    package mutating func field(_ name: StaticString, _ timestamp: Timestamp?) {
        if let timestamp { field(name, timestamp) } else { nullField(name) }
    }

    package mutating func nullField(_ name: StaticString) { putNull(name) }
}

extension Double {
    /// How many thousandths it is in magnitude, where it is below 1000, no whole number, and the nearest to so many.
    fileprivate var thousandths: UInt? {
        guard magnitude < 1000 else { return nil }
        let rounded = (magnitude * 1000).rounded()
        guard rounded / 1000 == magnitude else { return nil }
        let thousandths = UInt(rounded)
        return thousandths % 1000 == 0 ? nil : thousandths
    }
}

extension ByteCursor {
    /// Without zeros at the end: the shortest decimal fraction that means the number.
    fileprivate mutating func putThousandths(_ thousandths: UInt, isNegative: Bool) {
        if isNegative { put("-") }
        putDecimal(Int(thousandths / 1000))
        put(".")
        var (fraction, digits) = (thousandths % 1000, 3)
        while fraction % 10 == 0 {
            fraction /= 10
            digits -= 1
        }
        putDecimal(fraction, digits: digits)
    }
}
