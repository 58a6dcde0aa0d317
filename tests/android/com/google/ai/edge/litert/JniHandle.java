package com.google.ai.edge.litert;

public abstract class JniHandle implements AutoCloseable {
    @Override
    public final void close() {
    }
}
