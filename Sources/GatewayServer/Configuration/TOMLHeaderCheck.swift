/// Finds a table header that TOMLKit's parser would end the process over: one whose name does not start like a name.
///
/// Its C++ parser asserts there that a key follows, instead of reporting an error (found by fuzzing). A typing mistake
/// in a file that is reloaded must not end a gateway.
enum TOMLHeaderCheck {
    /// - Returns: line and column, from 1, of the character that cannot start a name.
    static func firstFault(_ text: String) -> (line: Int, column: Int)? {
        var scanner = Scanner(bytes: Array(text.utf8))
        return scanner.firstFault()
    }

    private struct Scanner {
        let bytes: [UInt8]
        var at = 0
        var line = 1
        var lineStart = 0
        /// Brackets and braces that are open in a value.
        var depth = 0
        var isLineEmpty = true

        init(bytes: [UInt8]) { self.bytes = bytes }

        mutating func firstFault() -> (line: Int, column: Int)? {
            while at < bytes.count {
                switch bytes[at] {
                case UInt8(ascii: "\n"): newLine()
                case UInt8(ascii: "#"): skipComment()
                case UInt8(ascii: "\""), UInt8(ascii: "'"): skipString()
                case UInt8(ascii: "[") where depth == 0 && isLineEmpty:
                    if let fault = header() { return fault }
                case UInt8(ascii: "["), UInt8(ascii: "{"): depth += 1
                case UInt8(ascii: "]"), UInt8(ascii: "}"): depth = max(0, depth - 1)
                case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"):
                    at += 1
                    continue
                default: break
                }
                if at < bytes.count, bytes[at] != UInt8(ascii: "\n") { isLineEmpty = false }
                at += 1
            }
            return nil
        }

        private mutating func newLine() {
            line += 1
            lineStart = at + 1
            isLineEmpty = true
        }

        /// Ends on the last byte before the line's end.
        private mutating func skipComment() {
            while at + 1 < bytes.count, bytes[at + 1] != UInt8(ascii: "\n") { at += 1 }
        }

        /// Ends on the closing delimiter, or where the text does.
        private mutating func skipString() {
            let quote = bytes[at]
            let isTriple = at + 2 < bytes.count && bytes[at + 1] == quote && bytes[at + 2] == quote
            at += isTriple ? 3 : 1
            while at < bytes.count {
                if bytes[at] == UInt8(ascii: "\\"), quote == UInt8(ascii: "\"") {
                    at += 1
                } else if bytes[at] == quote {
                    guard isTriple else { return }
                    if at + 2 < bytes.count, bytes[at + 1] == quote, bytes[at + 2] == quote {
                        at += 2
                        return
                    }
                } else if bytes[at] == UInt8(ascii: "\n") {
                    newLine()
                    guard isTriple else { return }
                }
                at += 1
            }
        }

        /// Reads over the brackets and looks at what follows; the rest of the line is skipped.
        private mutating func header() -> (line: Int, column: Int)? {
            at += 1
            if at < bytes.count, bytes[at] == UInt8(ascii: "[") { at += 1 }
            while at < bytes.count, bytes[at] == UInt8(ascii: " ") || bytes[at] == UInt8(ascii: "\t") { at += 1 }
            guard at < bytes.count else { return nil }
            guard Self.canStartName(bytes[at]) else { return (line, at - lineStart + 1) }
            skipComment()
            return nil
        }

        /// A bare key's characters, a quoted key, or what the parser reports by itself.
        private static func canStartName(_ byte: UInt8) -> Bool {
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "\""),
                UInt8(ascii: "'"), UInt8(ascii: "]"):
                true
            default: false
            }
        }
    }
}
