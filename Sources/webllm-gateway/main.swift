import NIOPosix
print("x")
