import sys, time, json, importlib.util, torch
sys.path.insert(0,'/tmp')
from statistics import median
from method.blocks import BlockMask, BLOCK
import method.ops.block_sparse.hopper as H
from method.ops.block_sparse.hopper import HopperLaunch, block_sparse_hopper
import types
# old kernel
def load(path,name):
    spec=importlib.util.spec_from_file_location(name,path); m=importlib.util.module_from_spec(spec); sys.modules[name]=m; spec.loader.exec_module(m); return m
import os
old=None
if os.path.exists('/tmp/old_hopper.py'):
    load('/tmp/old_kernel.py','old_kernel')
    old=load('/tmp/old_hopper.py','old_hopper')
dev='cuda'
torch.manual_seed(0)
def rand_mask(Hh,L,dens,seed):
    g=torch.Generator(device='cpu').manual_seed(seed)
    n=L//BLOCK
    r=torch.rand(1,Hh,n,n,generator=g)
    # keep diag + sink always; density over causal blocks
    keep=r<dens
    i=torch.arange(n)
    keep[...,i,i]=True; keep[...,0]=True
    keep&=torch.tril(torch.ones(n,n,dtype=torch.bool))
    return keep
import inspect
print([n for n in dir(BlockMask) if not n.startswith('__')])
def fa4_setup():
    import cutlass, cutlass.cute as cute
    from flash_attn.cute.interface import flash_attn_func
    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch
    @cute.jit
    def mod(b,h,m,n,seqlen_info,aux):
        return n<=m
    def prep(keep):
        n=keep.shape[-1]
        k=keep.to(dev)
        eye=torch.eye(n,dtype=torch.bool,device=dev)
        diag=k&eye; full=k&~eye
        def lists(x):
            cnt=x.sum(-1).int()
            w=int(cnt.max())
            idx=torch.argsort((~x).byte(),dim=-1,stable=True)[...,:max(w,1)].int().contiguous()
            return cnt.contiguous(),idx
        mc,mi=lists(diag); fc,fi=lists(full)
        return BlockSparseTensorsTorch(mc,mi,fc,fi,block_size=(128,128))
    def run(q,k,v,bst,scale):
        r=flash_attn_func(q.transpose(1,2),k.transpose(1,2),v.transpose(1,2),softmax_scale=scale,mask_mod=mod,block_sparse_tensors=bst)
        return (r[0] if isinstance(r,tuple) else r).transpose(1,2)
    def dense(q,k,v,scale):
        r=flash_attn_func(q.transpose(1,2),k.transpose(1,2),v.transpose(1,2),softmax_scale=scale,causal=True)
        return (r[0] if isinstance(r,tuple) else r).transpose(1,2)
    return prep,run,dense
fa4=None
try: fa4=fa4_setup()
except Exception as e: print('fa4 absent',repr(e)[:300])
try:
    import fa3_fwd_interface as f3
    def fa3(q,k,v,scale):
        r=f3.flash_attn_func(q.transpose(1,2),k.transpose(1,2),v.transpose(1,2),softmax_scale=scale,causal=True)
        return (r[0] if isinstance(r,tuple) else r).transpose(1,2)
except Exception as e:
    fa3=None; print('fa3 absent',repr(e)[:300])
flush=torch.empty(1<<28,dtype=torch.int32,device=dev)
def timed(calls,n,each=1):
    ts={k:[] for k in calls}
    for r in range(n+2):
        evs={}
        import random
        items=list(calls.items()); random.Random(r).shuffle(items)
        for k,c in items:
            flush.zero_();flush.zero_()
            a,b=torch.cuda.Event(enable_timing=True),torch.cuda.Event(enable_timing=True)
            a.record(); c(); b.record(); evs[k]=(a,b)
        torch.cuda.synchronize()
        if r>=2:
            for k,(a,b) in evs.items(): ts[k].append(a.elapsed_time(b))
    return {k:median(v) for k,v in ts.items()}
VARS=json.loads(os.environ.get('VARS','null')) or {"new":{}, "nopp":{"pingpong":False}, "kept":{"early":False}, "late":{"late":True}, "late nopp":{"late":True,"pingpong":False}, "narrow":{"wide":False}}
VARS={k:HopperLaunch(**v) for k,v in VARS.items()}
HQ,HKV,D=32,8,int(os.environ.get('D','128'))
out=[]
dead=set()
for L in [int(x) for x in os.environ.get('LENS','8192,32768,131072').split(',')]:
    q=torch.randn(1,HQ,L,D,device=dev,dtype=torch.bfloat16); k=torch.randn(1,HKV,L,D,device=dev,dtype=torch.bfloat16); v=torch.randn(1,HKV,L,D,device=dev,dtype=torch.bfloat16)
    sc=D**-.5
    n=L//BLOCK
    for dens in [1.0,.5,.35,.2]:
        keep=rand_mask(HQ,L,dens,L) if dens<1 else torch.tril(torch.ones(n,n,dtype=torch.bool)).expand(1,HQ,n,n)
        mask=BlockMask.from_map(keep.to(dev),L,L)
        blocks=int(keep.sum()); 
        # flops: full tiles; diagonal counted half
        flops=4*D*BLOCK*BLOCK*(blocks-HQ*n/2)
        calls={}
        ref=None
        for nm,la in VARS.items():
            if nm in dead: continue
            calls[nm]=lambda la=la: block_sparse_hopper(q,k,v,mask,scale=sc,launch=la)[0]
        if old: calls['old']=lambda: old.block_sparse_hopper(q,k,v,mask,scale=sc)[0]
        if dens==1.0:
            if fa3: calls['fa3']=lambda: fa3(q,k,v,sc)
            if fa4 and D==128: calls['fa4']=lambda: fa4[2](q,k,v,sc)
            from torch.nn.attention import SDPBackend, sdpa_kernel
            def cud():
                with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                    return torch.nn.functional.scaled_dot_product_attention(q,k,v,is_causal=True,scale=sc,enable_gqa=True)
            calls['cudnn']=cud
        elif fa4 and D==128:
            try:
                bst=fa4[0](keep); calls['fa4']=lambda: fa4[1](q,k,v,bst,sc)
            except Exception as e: print('fa4 prep',repr(e)[:200])
        base=calls['old']() if old else next(iter(calls.values()))()
        for nm in list(calls):
            try:
                o=calls[nm](); torch.cuda.synchronize()
                err=((o.float()-base.float()).norm()/base.float().norm()).item()
                if not err<1e-2: print('ERR',L,dens,nm,err)
                del o
            except Exception as e:
                print('FAIL',L,dens,nm,repr(e)[:300]); del calls[nm]; 
        t=timed(calls, 9 if L>40000 else 15)
        row={'L':L,'dens':round(blocks/(HQ*n*(n+1)/2),3),**{nm:round(flops/x/1e9,1) for nm,x in t.items()}}
        print(json.dumps(row),flush=True); out.append(row)
json.dump(out,open(os.environ.get('OUTF','/tmp/tune.json'),'w'))
