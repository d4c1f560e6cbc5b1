import NIOCore

/// `2024-01-15T10:30:00.000000`: UTC, six decimals, no zone letter.
package struct Timestamp: Sendable, Equatable {
    /// Microseconds since 1970-01-01T00:00:00 UTC, not negative.
    package var microseconds: Int64

    package init(microseconds: Int64) { self.microseconds = microseconds }

    /// Reads `2024-01-15T10:30:00`, with up to six decimals and a `Z` where they are there; nil for anything else.
    package init?(_ text: String) {
        var rest = text.utf8[...]
        if rest.last == UInt8(ascii: "Z") { rest = rest.dropLast() }
        func number(_ digits: Int) -> Int64? {
            guard rest.count >= digits else { return nil }
            var value: Int64 = 0
            for _ in 0..<digits {
                guard let byte = rest.popFirst(), (0x30...0x39).contains(byte) else { return nil }
                value = value * 10 + Int64(byte - 0x30)
            }
            return value
        }
        func skip(_ character: Unicode.Scalar) -> Bool { rest.popFirst() == UInt8(ascii: character) }
        guard let year = number(4), skip("-"), let month = number(2), skip("-"), let day = number(2), skip("T"),
            let hour = number(2), skip(":"), let minute = number(2), skip(":"), let second = number(2),
            year >= 1970, (1...12).contains(month), (1...31).contains(day), hour < 24, minute < 60, second < 60
        else { return nil }
        var fraction: Int64 = 0
        if !rest.isEmpty {
            guard skip("."), (1...6).contains(rest.count) else { return nil }
            let digits = rest.count
            guard let value = number(digits) else { return nil }
            fraction = (digits..<6).reduce(value) { sum, _ in sum * 10 }
        }
        let seconds = (Self.days(year, month, day) * 86_400) + hour * 3600 + minute * 60 + second
        microseconds = seconds * 1_000_000 + fraction
    }

    /// The inverse of ``civil(days:)``.
    private static func days(_ year: Int64, _ month: Int64, _ day: Int64) -> Int64 {
        let shifted = month <= 2 ? year - 1 : year
        let era = shifted / 400
        let yearOfEra = shifted % 400
        let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        return era * 146_097 + dayOfEra - 719_468
    }

    /// Bytes of one that is written.
    package static let width = 26

    /// The IMF-fixdate of RFC 9110 section 5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
    package var httpDate: String {
        let seconds = microseconds / 1_000_000
        let days = seconds / 86_400
        let (year, month, day) = Self.civil(days: days)
        let ofDay = Int(seconds % 86_400)
        func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][Int(days % 7)]
        return "\(weekday), \(two(day)) \(Self.months[month - 1]) \(year) "
            + "\(two(ofDay / 3600)):\(two(ofDay / 60 % 60)):\(two(ofDay % 60)) GMT"
    }

    private static let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

    /// Reads an IMF-fixdate; nil for anything else, the two obsolete forms included. The day of the week is not checked.
    package init?(httpDate text: String) {
        let words = text.split(separator: " ")
        guard words.count == 6, words[0].hasSuffix(","), words[5] == "GMT",
            let month = Self.months.firstIndex(of: String(words[2])), words[1].utf8.count == 2
        else { return nil }
        let number = month < 9 ? "0\(month + 1)" : "\(month + 1)"
        self.init("\(words[3])-\(number)-\(words[1])T\(words[4])")
    }

    /// Days since 1970-01-01 to a date of the Gregorian calendar, counted in eras of 400 years that start in March.
    fileprivate static func civil(days: Int64) -> (year: Int, month: Int, day: Int) {
        let shifted = days + 719_468
        let era = shifted / 146_097
        let dayOfEra = shifted % 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * shiftedMonth + 2) / 5 + 1
        let month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        return (Int(yearOfEra + era * 400 + (month <= 2 ? 1 : 0)), Int(month), Int(day))
    }
}

extension ByteCursor {
    /// ``Timestamp/width`` bytes.
    package mutating func put(_ timestamp: Timestamp) {
        let seconds = timestamp.microseconds / 1_000_000
        let (year, month, day) = Timestamp.civil(days: seconds / 86_400)
        let ofDay = UInt(seconds % 86_400)
        putDecimal(UInt(year), digits: 4)
        put("-")
        putDecimal(UInt(month), digits: 2)
        put("-")
        putDecimal(UInt(day), digits: 2)
        put("T")
        putDecimal(ofDay / 3600, digits: 2)
        put(":")
        putDecimal(ofDay / 60 % 60, digits: 2)
        put(":")
        putDecimal(ofDay % 60, digits: 2)
        put(".")
        putDecimal(UInt(timestamp.microseconds % 1_000_000), digits: 6)
    }
}
