/// The gateway cannot start or go on; one line for the operator.
package struct GatewayError: Error, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}
