package com.google.ai.edge.litert;

public final class TensorBuffer extends JniHandle {
    public void writeFloat(float[] data) throws LiteRtException {
    }

    public void writeInt8(byte[] data) throws LiteRtException {
    }

    public float[] readFloat() throws LiteRtException {
        return null;
    }

    public byte[] readInt8() throws LiteRtException {
        return null;
    }
}
